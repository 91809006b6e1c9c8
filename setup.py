"""Builds the soka_tf package, with its gin files and teachers inside."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).resolve().parent
# Those of tools/ that who has no checkout needs, installed as soka_tf.tools.NAME. They
# import nothing but soka_tf.
TOOLS = (
    "convert_teacher",
    "count_parameters",
    "prepare_records",
    "task_similarity",
    "wrap_teacher",
    "write_teacher_files",
)


def _version() -> str:
    """Reads the version without importing the package, which needs TensorFlow."""
    text = (ROOT / "soka_tf" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.M)[1]


def _requirements() -> list:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _readme() -> str:
    path = ROOT / "README.md"
    return path.read_text(encoding="utf-8") if path.exists() else ""


setup(
    name="soka_tf",
    version=_version(),
    description="One compact student from several trained dense-prediction teachers",
    long_description=_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # 3.14: TensorFlow has no release with wheels for it yet.
    python_requires=">=3.9,<3.14",
    install_requires=_requirements(),
    extras_require={
        # TensorFlow with the CUDA libraries that it was built for, on Linux.
        "gpu": [
            line.replace("tensorflow==", "tensorflow[and-cuda]==")
            for line in _requirements()
            if line.startswith("tensorflow==")
        ],
        # For tools/convert_teacher.py, to read PyTorch files. Before 2.10, the first
        # release without Python 3.9, torch.load(weights_only=True) can be made to
        # execute code (CVE-2026-24747).
        "convert": ["torch>=2.10,<3; python_version >= '3.10'"],
        # For `soka_tf.export --format=onnx`; tf2onnx 1.17 needs Python 3.10.
        "onnx": [
            "tf2onnx==1.17.0; python_version >= '3.10'",
            "onnx==1.18.0; python_version >= '3.10'",
            "onnxruntime>=1.19,<2; python_version >= '3.10'",
        ],
        # For `make docs`; mkdocstrings needs Python 3.10.
        "docs": [
            "mkdocs-material>=9.7,<10; python_version >= '3.10'",
            "mkdocstrings-python>=2,<3; python_version >= '3.10'",
        ],
        # For `soka_tf.serve`; both have releases for Python 3.9.
        "serve": ["flask>=3,<4", "waitress>=3.0.1,<4"],
        # For videos in `soka_tf.predict`: a wheel with ffmpeg inside.
        "video": ["imageio-ffmpeg>=0.5,<1"],
    },
    # The folder gin/ holds data only. It is installed inside the package: a
    # top-level `gin` would hide gin-config.
    packages=find_packages(include=["soka_tf", "soka_tf.*"]) + ["soka_tf.configs.gin"],
    py_modules=[f"soka_tf.tools.{name}" for name in TOOLS],
    package_dir={"soka_tf.configs.gin": "gin", "soka_tf.tools": "tools"},
    package_data={
        "soka_tf.configs.gin": ["*.gin", "**/*.gin"],
        "soka_tf.evaluation": ["*.jinja"],
        "soka_tf.serving": ["templates/*", "static/*"],
        "soka_tf.teachers": ["weights/*", "weights/**/*"],
        "soka_tf.teachers.taskonomy": ["*.txt"],
    },
    include_package_data=False,
    zip_safe=False,
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
