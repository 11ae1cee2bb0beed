"""Tests of the stores: one contract for all, and what each promises beyond it."""

import pytest

pytest.register_assert_rewrite("tests.storage.contract")
