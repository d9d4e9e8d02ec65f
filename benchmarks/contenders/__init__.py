"""One distillation task, done by different libraries: `python -m benchmarks.contenders NAME --teacher DIR --json OUT`.

`plain`: a hand-written `Trainer` subclass. `ours`: this package. `textbrewer` and `textbrewer-padded`:
TextBrewer, with batches padded to their longest sentence or, as in its own examples, to `max_length`. `torchdistill`:
torchdistill without Accelerate.

`pip install -e ".[benchmark]"` installs TextBrewer. torchdistill requires torchvision, for vision models that are
not used here. The newest torchvision would replace the installed torch, and its builds on PyPI do not load with a CPU
build of torch. So run `pip install --no-deps torchdistill==1.1.5`; `torchdistill_kd` replaces torchvision by a stub.
"""
