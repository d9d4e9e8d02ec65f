"""One distillation task, done by different libraries: `python -m benchmarks.contenders NAME --teacher DIR --json OUT`.

`plain`: a `Trainer` subclass as one writes it by hand. `ours`: this package. `textbrewer` and `textbrewer-padded`:
TextBrewer, with batches padded to their longest sentence or, as in its own examples, to `max_length`. `torchdistill`:
torchdistill without Accelerate.

`pip install -e ".[benchmark]"` installs TextBrewer. torchdistill asks for torchvision, for vision models that no text
needs. Its newest release would replace the installed torch, and its builds on the index do not load beside a CPU build
of torch: `pip install --no-deps torchdistill==1.1.5` does without, and `torchdistill_kd` takes a stub for it.
"""
