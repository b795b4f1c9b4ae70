"""What a run imports before its first round is over: the rest is time that everybody waits."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys, tempfile
import fedmomentum as fm

class Watch:
    seen = None
    def start(self, event): pass
    def end(self, event): pass
    def round_end(self, event):
        if event.round == 1 and Watch.seen is None:
            Watch.seen = sorted({name.split(".")[0] for name in sys.modules} | ({"torch._dynamo"} & sys.modules.keys()))

with tempfile.TemporaryDirectory() as out:
    fm.run("scenarios/quickstart.yaml", overrides=["rounds=1", "engine.name=inline"], out=out, listeners=[Watch()])
print(json.dumps(Watch.seen))
"""


def test_nothing_heavy_is_imported_on_the_way_to_round_one():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    seen = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"torch", "flwr", "pydantic"} <= seen
    assert not seen & {
        "torch._dynamo",
        "sympy",
        "ray",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "mlflow",
        "datasets",
    }
