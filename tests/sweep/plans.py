"""A sweep of tiny networks on few digits, whose cells take less than a second each."""

TINY = """
[data]
set = "digits"
train_samples = 120
test_samples = 40
[network]
neuron = { beta = 0.5, threshold = 1.0 }
layers = [
  { type = "conv", channels = 4, kernel = 3, padding = 1, stride = 2 },
  { type = "batch_norm" },
  { type = "lif" },
  { type = "conv", channels = 4, kernel = 3, padding = 1, stride = 2 },
  { type = "batch_norm" },
  { type = "lif" },
  { type = "flatten" },
  { type = "linear", features = 10 },
]
[train]
epochs = 2
batch_size = 20
[sweep]
seeds = [0]
[sweep.axes]
"""
