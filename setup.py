"""The part of the package that is compiled; all else is in pyproject.toml.

Without a C compiler the package installs all the same, and clients train without it.
"""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "fedmomentum.clients._native",
            ["clients/native.c"],
            depends=["clients/native_kernels.h", "clients/native_clients.h", "clients/native_draws.h"],
            libraries=["m"],
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-Wno-psabi"],
            optional=True,
        )
    ]
)
