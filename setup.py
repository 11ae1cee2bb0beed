"""The one thing pyproject.toml cannot say: an optional C module.

Without a compiler, or without Python.h, the install succeeds and ``pgkeep.postgres.page``
uses numpy. The module keeps to the stable ABI of Python 3.11, so one wheel serves every later
version; free-threaded builds have no stable ABI yet and get a module of their own.
"""

import sysconfig

from setuptools import Extension, setup

stable_abi = not sysconfig.get_config_var("Py_GIL_DISABLED")

setup(
    ext_modules=[
        Extension(
            "pgkeep.postgres._pages",
            sources=["src/pgkeep/postgres/_pages.c"],
            depends=["src/pgkeep/postgres/_pages_lanes.h"],
            define_macros=[] if stable_abi else [("PGKEEP_FULL_API", "1")],
            extra_compile_args=["-O3"],
            py_limited_api=stable_abi,
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if stable_abi else {},
)
