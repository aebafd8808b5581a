"""Rotated-box mathematics: exact, differentiable, static-shaped; imports only jax and numpy.

A box is `(cx, cy, w, h, angle)` in pixels and radians, clockwise on screen, "le90" when canonical;
`docs/boxes.md` has the drawing and the rules for empty, padded, NaN and infinite boxes.
"""
