"""Networks with branches at random, for tests that hold for any network."""


def random_layers(draw):
    """Layer tables of a network with branches, for an input of 2 x 3 x 3 and 3 classes.

    Every value has 4 channels of 3 x 3, but the selects', which a convolution reads.

    Args:
        draw: a random.Random.
    """
    spikes, currents, layers, unread = ["input"], [], [], []
    conv = {"type": "conv", "channels": 4, "kernel": 3, "padding": 1}

    def add(values, table, **reads):
        name = f"{table['type']}_{len(layers)}"
        layers.append(table | {"name": name} | reads)
        values.append(name)
        for source in [reads.get("from"), *reads.get("of", ())]:
            if source in unread:
                unread.remove(source)
        unread.append(name)

    add(currents, conv, **{"from": "input"})
    for _ in range(draw.randint(4, 14)):
        kind = draw.choice(["conv", "norm", "norm", "lif", "lif", "sum", "pool", "select"])
        normed = [c for c in currents if not c.startswith("batch_norm")]
        adding = [value for value in spikes + currents if value != "input"]
        if kind == "conv":
            add(currents, conv | {"bias": draw.random() < 0.5}, **{"from": draw.choice(spikes)})
        elif kind == "norm":
            add(currents, {"type": "batch_norm"}, **{"from": draw.choice(normed)})
        elif kind == "lif":
            add(spikes, {"type": draw.choice(["lif", "if"])}, **{"from": draw.choice(currents)})
        elif kind == "sum" and len(adding) > 1:
            add(currents, {"type": "sum"}, of=draw.sample(adding, draw.randint(2, min(3, len(adding)))))
        elif kind == "pool" and (fired := [s for s in spikes if s.startswith(("lif", "if"))]):
            add(spikes, {"type": draw.choice(["max_pool", "avg_pool"]), "kernel": 1}, **{"from": draw.choice(fired)})
        elif kind == "select" and len(spikes) > 1:
            channels = draw.sample(range(4), draw.randint(1, 4))
            add([], {"type": "select", "channels": channels}, **{"from": draw.choice(spikes[1:])})
            add(currents, conv, **{"from": layers[-1]["name"]})
    if len(unread) > 1:
        add(currents, {"type": "sum"}, of=list(unread))
    [last] = unread
    if last in currents:
        layers.append({"type": "lif", "from": last})
    ends = [{"type": "linear", "features": 5}, {"type": "batch_norm"}, {"type": "lif"}]
    return [*layers, {"type": "flatten"}, *(ends if draw.random() < 0.5 else []), {"type": "linear", "features": 3}]
