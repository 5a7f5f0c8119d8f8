"""What the tests of evaluations share."""

import numpy as np
import pandas as pd
import pytest

from camhelpers.evaluate.run import COLUMNS


@pytest.fixture(scope="session")
def table_of():
    """Build a table of one score in the form of an evaluation, by each method's mean."""

    def build(metric="insertion", n=30, noise=0.01, **means):
        rng = np.random.default_rng(0)
        rows = [
            (f"p{i}", "a", method.partition("@")[0], float(method.partition("@")[2] or "nan"), "layer4", metric, "mean",
             10, 0, mean + noise * rng.standard_normal())
            for method, mean in means.items()
            for i in range(n)
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"steps": "Int64"})

    return build
