# SPDX-License-Identifier: Apache-2.0
"""Builds the extension, and the tests' own, with torch's helper:  python setup.py build_ext -b FOLDER -t FOLDER/objects"""
import pathlib

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

here = pathlib.Path(__file__).resolve().parent


def extension(name, source):
    return CppExtension(
        name, [str(here / source)], include_dirs=[str(here.parents[1] / "include")],
        depends=[str(p) for p in [*here.glob("csrc/*.hpp"), *here.parents[1].glob("include/unshard/**/*.hpp")]],
        extra_compile_args=["-std=c++20", "-O2", "-g0", "-fvisibility=hidden"])


setup(
    name="unshard-torch",
    ext_modules=[extension("_unshard_torch", "csrc/bindings.cpp"),
                 extension("_unshard_torch_conformance", "tests/conformance.cpp")],
    cmdclass={"build_ext": BuildExtension})
