"""Compiles a config's real train step for a target and reads off what it needs."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

from rsfm_jax.flops import Term, training_flops
from rsfm_jax.plan import hlo, targets
from rsfm_jax.plan.bundles import kernel_cycles
from rsfm_jax.plan.collectives import Collective, collectives
from rsfm_jax.plan.products import product_flops
from rsfm_jax.plan.roofline import Roofline, roofline
from rsfm_jax.plan.targets import Target
from rsfm_jax.sharding.mesh import check_batch, make_mesh
from rsfm_jax.tasks import make_task
from rsfm_jax.training.program import Program, accumulate_gradients, build_program
from rsfm_jax.training.state import Batch, Task, TrainState
from rsfm_jax.training.validate import COMMON_RULES, check_values

# What libtpu says in place of a program that does not fit. Its `temporaries` include arguments.
_OUT_OF_MEMORY = (
    re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM"),
    re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device.

    Attributes:
      weights: float32 masters.
      optimizer: moments, and the moving average where one is kept.
      batch: the step's inputs.
      temporaries: activations, gradients, gathered weights.
      program: the compiled code.
      peak: most in use at once.
      capacity: what the device has; None for the processor.
    """

    weights: int
    optimizer: int
    batch: int
    temporaries: int
    program: int
    peak: int
    capacity: int | None

    @property
    def missing(self) -> int:
        """Bytes by which the step does not fit; 0 where it does."""
        return max(self.peak - self.capacity, 0) if self.capacity else 0


@dataclasses.dataclass(frozen=True)
class Facts:
    """What only a program that fits has: the compiler refuses to print another.

    Attributes:
      traffic: collectives.
      kernels: launches of one step of one device.
      bytes_moved: by them, to and from the device's memory.
      roofline: None for the processor.
      compiler_seconds: the TPU compiler's own estimate of the step, of its schedule where a
        kernel is Pallas's; None elsewhere.
    """

    traffic: list[Collective]
    kernels: int
    bytes_moved: int
    roofline: Roofline | None
    compiler_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Plan:
    """One config on one target.

    Attributes:
      target: as it was asked for.
      devices: how many.
      mesh: sizes of its axes.
      batch_size: global.
      remat: activation checkpointing policy.
      parameters: elements of the weights.
      terms: analytic FLOPs of one image, without recomputation, with their formulas.
      computed_flops: of the products as traced, with recomputation and padding.
      memory: of one device.
      facts: of the compiled program; None where it does not fit and is refused.
    """

    target: str
    devices: int
    mesh: dict[str, int]
    batch_size: int
    remat: str
    parameters: int
    terms: list[Term]
    computed_flops: int
    memory: Memory
    facts: Facts | None

    @property
    def flops(self) -> int:
        """Analytic FLOPs of one step of all devices."""
        return self.batch_size * training_flops(self.terms)

    @property
    def images_per_second(self) -> float | None:
        """At the roofline, all devices together."""
        if self.facts is None or self.facts.roofline is None:
            return None
        return self.batch_size / self.facts.roofline.step


def make_plan(config: Any, target: Target, part: str = "step") -> Plan:
    """Compiles the train step of `config` for `target`.

    Args:
      config: the run.
      target: the hardware.
      part: `step`, or `gradients` for its forward and backward pass alone, from and to weights
        in the type of its products: casts of masters belong to the update.

    Raises:
      UserError: a config that cannot work, a mesh or batch that does not divide, or no compiler
        for the target.
    """
    check_values(config, COMMON_RULES)
    mesh = make_mesh(config, targets.devices(target))
    check_batch(config, mesh)
    with targets.cudnn_of(target):
        task = make_task(config, mesh)
        program = build_program(task, config, mesh)
        step = program.train_step if part == "step" else _gradients(task, config, program)
        batch = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=program.batch_sharding),
            task.abstract_batch(),
        )
        state = program.abstract_state
        if part == "gradients":
            dtype = jnp.dtype(config.model.dtype)
            cast = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding), state.params
            )
            state = dataclasses.replace(state, params=cast)
        with jax.set_mesh(mesh):
            traced = step.trace(state, batch)
            computed = product_flops(traced.jaxpr.jaxpr)
            compiled = _compile(traced.lower(), target)
    memory = _memory(compiled, program, batch, target)
    facts = None
    if not isinstance(compiled, int):
        facts = _facts(compiled.as_text(), mesh, traced.jaxpr.jaxpr, computed, target)
    return Plan(
        target=target.text,
        devices=mesh.size,
        mesh=dict(mesh.shape),
        batch_size=config.batch_size,
        remat=config.model.remat,
        parameters=sum(x.size for x in jax.tree.leaves(program.abstract_state.params)),
        terms=task.flops,
        computed_flops=computed,
        memory=memory,
        facts=facts,
    )


def _gradients(task: Task, config: Any, program: Program) -> Any:
    shardings = jax.tree.map(lambda x: x.sharding, program.abstract_state.params)

    def gradients(state: TrainState, batch: Batch) -> Any:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)
        inputs = task.prepare(batch, rng)
        grads, *rest = accumulate_gradients(task.loss, state, inputs, rng, config.accumulate_steps)
        return jax.lax.with_sharding_constraint(grads, shardings), rest

    return jax.jit(gradients)


def _compile(lowered: Any, target: Target) -> Any:
    """The compiled program, or all the bytes for which the compiler refused it."""
    try:
        return lowered.compile(compiler_options=targets.compiler_options(target))
    except jax.errors.JaxRuntimeError as error:
        for pattern in _OUT_OF_MEMORY:
            found = pattern.search(str(error))
            if found:
                return int(float(found[1]) * _UNITS[found[2]])
        raise


def _memory(compiled: Any, program: Program, batch: Any, target: Target) -> Memory:
    state = program.abstract_state
    weights, whole, inputs = (_bytes_a_device(tree) for tree in (state.params, state, batch))
    if isinstance(compiled, int):
        temporaries, code, peak = max(compiled - whole - inputs, 0), 0, compiled
    else:
        stats = compiled.memory_analysis()
        temporaries, code = stats.temp_size_in_bytes, stats.generated_code_size_in_bytes
        peak = stats.peak_memory_in_bytes + code
    capacity = target.chip.memory if target.chip else None
    return Memory(weights, whole - weights, inputs, temporaries, code, peak, capacity)


def _bytes_a_device(tree: Any) -> int:
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def _facts(text: str, mesh: Any, jaxpr: Any, computed_flops: int, target: Target) -> Facts:
    module, chip = hlo.parse(text), target.chip
    islands = targets.islands(target, list(mesh.devices.flat))
    traffic = collectives(module, dict(mesh.shape), islands)
    moved = hlo.bytes_moved(module)
    seconds = None
    if chip and chip.is_tpu:
        seconds = hlo.estimated_cycles(module, kernel_cycles(jaxpr, target)) / chip.clock
    return Facts(
        traffic=traffic,
        kernels=hlo.kernels(module),
        bytes_moved=moved,
        roofline=roofline(computed_flops / mesh.size, moved, traffic, chip) if chip else None,
        compiler_seconds=seconds,
    )
