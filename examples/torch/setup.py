"""Builds the extension with torch's own helper:  python setup.py build_ext -b FOLDER -t FOLDER/objects"""
import pathlib

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

here = pathlib.Path(__file__).resolve().parent
setup(
    name="unshard-torch",
    ext_modules=[CppExtension(
        "_unshard_torch", [str(here / "csrc/bindings.cpp")],
        include_dirs=[str(here.parents[1] / "include")],
        depends=[str(p) for p in [*here.glob("csrc/*.hpp"), *here.parents[1].glob("include/unshard/**/*.hpp")]],
        extra_compile_args=["-std=c++20", "-O2", "-g0"])],
    cmdclass={"build_ext": BuildExtension})
