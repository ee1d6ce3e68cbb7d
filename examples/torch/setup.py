# SPDX-License-Identifier: Apache-2.0
"""pip install --no-build-isolation ./examples/torch     installs the package `unshard` and its extension

python setup.py build_ext -b FOLDER -t FOLDER/objects   builds the extension, and the tests' own, without installing"""
import pathlib
import sys

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

here = pathlib.Path(__file__).resolve().parent


def extension(name, source):
    return CppExtension(
        name, [str(here / source)], include_dirs=[str(here.parents[1] / "include")],
        depends=[str(p) for p in [*here.glob("csrc/*.hpp"), *here.parents[1].glob("include/unshard/**/*.hpp")]],
        extra_compile_args=["-std=c++20", "-O2", "-g0", "-fvisibility=hidden"])


extensions = [extension("_unshard_torch", "csrc/bindings.cpp")]
if "build_ext" in sys.argv:
    extensions.append(extension("_unshard_torch_conformance", "tests/conformance.cpp"))
setup(
    name="unshard-torch",
    version="0.1.0",
    description="Sharded PyTorch parameters, gathered in chunks that never exceed a byte budget",
    packages=["unshard"],
    python_requires=">=3.10",
    install_requires=["torch", "numpy"],
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtension})
