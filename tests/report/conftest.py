"""Documents of reports, small or as large as wanted, and the browser that pages are opened in."""

from __future__ import annotations

import copy
import os
import random
import shutil

import pytest

from sca_deploy.compare import compare, compare_floats
from sca_deploy.evaluate import LABELS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ROOT_ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run")
QUIET_ARGUMENTS = ("--disable-background-networking", "--disable-component-update", "--disable-sync")


def figures(scale: float) -> dict:
    """Figures of which no two are alike, nor their ratios, in digits that no rounding keeps."""
    found = {}
    for place, key in enumerate(LABELS):
        grown = scale ** (1 + place / 10)
        if key.endswith("_nj_per_sample") or key == "step_time_ns":
            ends = {"low": grown * (1 + place) / 7, "typical": grown * (2 + place) / 7}
            found[key] = {**ends, "high": grown**1.1 * (20 + place) / 7}
        elif key.startswith("accuracy"):
            found[key] = (900 + place + scale) / 1003
        elif key == "test_samples":
            found[key] = 1003
        elif key.endswith("_per_sample"):
            found[key] = grown * (1000 + place) / 3
        else:
            found[key] = int(grown * (100 + 3 * place))
    return found


def evaluation(names: list[str], scale: float, steps: int) -> dict:
    """An evaluation of layers of 64 neurons, as `evaluate` writes it."""
    given, samples = figures(scale), 1003
    band = {"low": 2.0 * scale, "typical": 5.0 * scale, "high": 9.0 * scale}
    tally = {"synops_payload": 3, "messages_in": 5, "injections": 0}
    counts = [
        {"name": name, "spikes": 1000 + place, "synops": 5000 + place, "synops_stored": 6000 + place, **tally}
        | {"updates": 64 * steps * samples}
        for place, name in enumerate(names)
    ]
    priced = [
        {"name": term, "count": 7.0, "evidence": "inferred", "source": "a paper", **band}
        for term in ("synaptic operations", "hops north-south")
    ]
    return {
        "figures": given,
        "labels": LABELS,
        "warnings": [],
        "counts": {
            "samples": samples,
            "steps": steps,
            "layers": counts,
            "total": {"spikes": 1000, "updates": 64 * steps * samples * len(names), "synops": 5000},
            "per_sample": {"synops": given["synops_per_sample"]},
        },
        "map": {"lower_bound": scale > 1},
        "energy": {"chip": "loihi2", "evidence": ["inferred"], "terms": priced, "not_priced": ["host"], **band},
        "static_energy": {"name": "static power", "evidence": ["inferred"], **band},
        "step_time": {
            "evidence": ["inferred"],
            "step": band,
            "busiest_core": {"layer": names[0], "core": 0},
            "bound_by": "synaptic operations",
            "terms": [{"name": "barrier", "count": 1, "typical": 299.0}],
            "not_included": ["bursts"],
        },
        "over_steps": {
            "accuracy_float": [0.9 + 0.01 * step / steps for step in range(steps)],
            "accuracy_chip": [0.8 + 0.01 * step / steps for step in range(steps)],
        },
        "agreement": {
            "samples": samples,
            "same_answer": 0.987,
            "compared": 64,
            "layers": [{"name": name, "spikes_float": 100, "spikes_chip": 101, "differ": 0.01} for name in names],
        },
    }


def traces(names: list[str], steps: int, density: float) -> dict:
    """Two samples in which a share of 64 neurons of each layer fires at every step."""
    chance = random.Random(0)
    curve = [round(chance.random(), 5) for _ in range(steps)]
    layers = [
        {
            "name": name,
            "neurons": 1000,
            "shown": list(range(64)),
            "spikes": [[row, step] for row in range(64) for step in range(steps) if chance.random() < density],
            "spikes_total": 77,
            "membrane": [
                {"neuron": neuron, "chip": curve, "float": curve[::-1], "threshold": 1.0}
                | {"fires": {"chip": [0], "float": [steps - 1]}}
                for neuron in (3, 5, 8, 13)
            ],
        }
        for name in names
    ]
    samples = [
        {
            "index": index,
            "label": label,
            "answer_float": label,
            "answer_chip": 1,
            "image": {"shape": [1, 2, 2], "values": [0, 1, 2, 3]},
            "readout": {"chip": [[0.1, 0.9]] * steps, "float": [[0.2, 0.8]] * steps},
            "layers": layers,
        }
        for index, label in ((0, 1), (7, 0))
    ]
    return {"samples": samples, "steps": steps, "classes": 2}


def floor(names: list[str], cores: int) -> dict:
    """So many cores, dealt to the layers in turn, on chips of 128."""
    placed = []
    for number in range(min(cores, 512)):
        tile, slot = divmod(number % 128, 4)
        placed.append(
            {
                "layer": names[number * len(names) // cores],
                "index": number,
                "chip": number // 128,
                "x": tile // 4,
                "y": tile % 4,
                "slot": slot,
                "neurons": 512,
                "fill": (number % 10) / 10,
                "binding": "synapse_words",
                "use": {"neurons": [512, 4095], "synapse_words": [1234 + number, 16000]},
            }
        )
    return {
        "chip": "loihi2",
        "title": "Intel Loihi 2, one chip",
        "columns": 8,
        "rows": 4,
        "cores_per_tile": 4,
        "cores_per_chip": 128,
        "chips": -(-cores // 128),
        "used": cores,
        "lower_bound": False,
        "layers": [{"name": name, "cores": 1, "fill": [0.1, 0.9], "binding": "synapse_words"} for name in names],
        "cores": placed,
        "truncated": cores - len(placed),
    }


def arm(name: str, names: list[str], scale: float, *, channels: int, steps: int, cores: int, density: float) -> dict:
    """One arm with all its parts."""
    kept, of = dict.fromkeys(names, channels), dict.fromkeys(names, 32 + channels)
    shape = {"shape": [channels, 8, 8], "weights": 576, "zero_weights": 0.25, "weight_max": 254, "bias_max": 17}
    return {
        "name": name,
        "title": f"synthetic-{name}",
        "evaluation": evaluation(names, scale, steps),
        "log": [
            {"epoch": epoch, "test_accuracy": 0.5 + 0.04 * epoch, "pruning": {"kept": kept, "of": of}}
            for epoch in range(1, 11)
        ],
        "layers": [
            {"name": layer, "synapse": "conv 3x3 from input", "threshold": 561, "beta": 0.5, "alpha": 0.0, **shape}
            | {"scale": 561.0, "readout": False}
            for layer in names
        ],
        "floor": floor(names, cores),
        "traces": traces(names, steps, density),
        "verification": {
            "samples": 32,
            "steps": steps,
            "layers": [{"name": layer, "values": 4096, "spikes": 12, "mismatches": 0} for layer in names],
            "mismatches": 0,
            "simulator_seconds": 0.01,
            "lava_seconds": 2.0,
        },
        "compaction": {"samples": 64, "spikes_compared": 9, "before": kept, "after": kept},
        "calibration": {
            "samples": 128,
            "layers": [
                {"name": layer, "largest": 900.0, "chosen": 850.0, "before": 0.02, "after": 0.01} for layer in names
            ],
        },
        "manifest": {
            "versions": {"sca-deploy": "0.1.0", "python": "3.11.7"},
            "seed": 0,
            "chip": {"name": "loihi2", "sha256": "c" * 64},
            "sources": {"network.pt": "a" * 64},
            "config": {"name": name, "train": {"epochs": 10}, "network": {"layers": [{"type": "lif"}]}},
            "config_sha256": "b" * 64,
        },
        "missing": {},
    }


@pytest.fixture(scope="session")
def make_document():
    """A maker of documents: of so many layers, or of layers with given names."""

    def make(
        layers: int = 3, *, names=None, channels: int = 32, steps: int = 4, cores: int = 5, density: float = 0.2
    ) -> dict:
        names = names or [f"lif{place + 1}" for place in range(layers)]
        size = {"steps": steps, "cores": cores, "density": density}
        arms = {
            "dense": arm("dense", names, 2.0, channels=channels, **size),
            "pruned": arm("pruned", names, 1.0, channels=max(1, channels // 3), **size),
        }
        sizes = {"cores": 128, "mesh_columns": 8, "mesh_rows": 4, "cores_per_tile": 4}
        return {
            "title": "synthetic",
            "comparison": compare(arms["dense"]["evaluation"], arms["pruned"]["evaluation"]),
            "chip": {"name": "loihi2", "title": "Intel Loihi 2, one chip", **sizes},
            "arms": arms,
        }

    return make


@pytest.fixture
def document(make_document):
    """A document in which nothing is missing."""
    return make_document()


@pytest.fixture
def floats_document(document):
    """A document of networks that stay in floats: no arm was lowered, and each says why."""
    known = ("parameters", "parameters_nonzero", "channels", "accuracy_float", "test_samples")
    lowered = ("evaluation", "floor", "traces", "verification", "calibration", "manifest")
    found = copy.deepcopy(document)
    for part in found["arms"].values():
        part |= dict.fromkeys(lowered) | {"layers": []}
        part["missing"] = dict.fromkeys((*lowered, "layers"), "stays in floats: a Delay is on no chip")
    floats = [{key: figures(scale)[key] for key in known} for scale in (2.0, 1.0)]
    return {**found, "comparison": compare_floats(*floats)}


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, one for the tests of a file."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    places = [os.environ.get("SCA_DEPLOY_CHROMIUM"), *map(shutil.which, BROWSERS)]
    executable = next(filter(None, places), None)
    if executable is None:
        pytest.skip(f"no {' or '.join(BROWSERS)}: install one, or name it in SCA_DEPLOY_CHROMIUM")
    with api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=executable, args=[*ROOT_ARGUMENTS, *QUIET_ARGUMENTS])
        yield found
        found.close()
