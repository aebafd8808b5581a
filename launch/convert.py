"""Weights in and out, each with a numerical check; see docs/weights.md.

    python launch/convert.py import --source=mae_pretrain_vit_base.pth --workdir=runs/mae_base
    python launch/convert.py export --checkpoint=runs/mae_86m --output=mae_86m

`import` reads torch MAE, timm and Hugging Face ViTMAE weights, and what `export` wrote, into a
work folder for --config.init_from. Exit status: 0 done, 2 bad input or a check that fails (one
line says what; nothing is written), 1 anything else.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from launch.command import Parser, execute
from rsfm_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # whose float32 products are exact enough to compare
    return execute(lambda: _run(_parser().parse_args(arguments)))


def _run(options: argparse.Namespace) -> None:
    try:
        options.run(options)
    except OSError as error:  # a full or read-only disk
        raise UserError(f"{error.filename}: {error.strerror}") from error


def _import(options: argparse.Namespace) -> None:
    from rsfm_jax.interop import importing
    from rsfm_jax.interop.exported import Exported, is_exported
    from rsfm_jax.interop.source import Given, read_source

    importing.refuse_used_workdir(options.workdir)
    if is_exported(options.source):
        exported = Exported.read(options.source)
        variables = importing.import_exported(exported, print)
        metadata = exported.metadata
    else:
        given = Given(options.heads, options.decoder_heads, options.mean, options.std)
        source = read_source(options.source, given)
        variables = importing.import_foreign(source, print)
        metadata = _pretraining_metadata(source)
        parts = "encoder and decoder" if source.layout.decoder else "encoder alone"
        print(f"{source.size_name}: {parts}; mean {source.mean}, deviation {source.std}")
        if source.left:
            print(f"left out: {', '.join(source.left)}")
    importing.write_workdir(options.workdir, variables, metadata)
    print(f"{options.workdir}: start from it with --config.init_from={options.workdir}")


def _pretraining_metadata(source) -> dict:
    """Config and contract as of a pretraining run with the source's weights, and the source."""
    from configs import mae_recipe
    from rsfm_jax.tasks.encoder import image_contract

    config = mae_recipe.get_config(source.size_name)
    config.model.patch_size = source.layout.patch_size
    config.data.image_size = source.image_size
    config.data.mean, config.data.std = source.mean, source.std
    if decoder := source.layout.decoder:
        config.model.decoder_width = decoder.width
        config.model.decoder_depth = decoder.depth
        config.model.decoder_heads = decoder.num_heads
    config.model.decoder_class_token = True
    config.model.normalize_targets = source.normalize_targets
    config.data.source = ""  # the file does not say what it was trained on
    return {
        "config": json.loads(config.to_json()),
        "contract": image_contract(config),
        "imported_from": source.file.name,
    }


def _export(options: argparse.Namespace) -> None:
    from rsfm_jax.interop.exporting import export

    export(options.checkpoint, options.output, print)
    print(options.output)


def _parser() -> Parser:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("import", help="foreign weights -> a work folder")
    one.add_argument(
        "--source",
        type=Path,
        required=True,
        help="a .safetensors, .pth or .bin file, a downloaded folder, or an exported one",
    )
    one.add_argument("--workdir", type=Path, required=True, help="a new work folder")
    one.add_argument("--heads", type=int, help="of the encoder, where width does not tell")
    one.add_argument("--decoder_heads", type=int, help="of the decoder, where not 16")
    for name in ("mean", "std"):
        one.add_argument(
            f"--{name}",
            type=_three,
            metavar="R,G,B",
            help="of pixels in [0, 1] (default: what lies beside the weights, or ImageNet's)",
        )
    one.set_defaults(run=_import)
    one = commands.add_parser("export", help="a checkpoint -> safetensors and a model card")
    one.add_argument("--checkpoint", type=Path, required=True, help="a work folder or a step's")
    one.add_argument("--output", type=Path, required=True, help="a new folder")
    one.set_defaults(run=_export)
    return parser


def _three(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) != 3:
        raise argparse.ArgumentTypeError("give three numbers: red,green,blue")
    return values


if __name__ == "__main__":
    sys.exit(main())
