#!/usr/bin/env bash
# Check speed and memory on a GPU in less than 8 minutes: scripts/gpu_check.sh [--output DIR] [--rounds N]
# Writes gpu.json and gpu.md. Without a GPU, it measures tiny models on the CPU, to check itself.
#
# PYTHON names the interpreter, by default python3, which must have torch. Packages that are missing are installed into a
# temporary folder: from the wheels in the folder WHEELS (default: .wheels) if it exists, else from PyPI. For a machine
# without a network, fill the folder before, for the Python version of that machine:
#   pip download --no-deps --only-binary=:all: --python-version 3.12 -d .wheels \
#       datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 evaluate==0.4.6
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3} wheels=${WHEELS:-$root/.wheels}
if ! missing=$("$python" - "$root/pyproject.toml" <<'CODE'
import importlib.util, re, sys, tomllib
lines = tomllib.load(open(sys.argv[1], "rb"))["project"]["dependencies"]
modules = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn"}
absent = []
for line in lines:
    name = re.split(r"[<>=!~ \[]", line)[0].lower()
    if importlib.util.find_spec(modules.get(name, name)) is None:
        absent.append(line.replace(" ", ""))
print(" ".join(absent))
sys.exit(bool(absent))
CODE
); then
  site=$(mktemp -d); trap 'rm -rf "$site"' EXIT
  echo "installing for this check: $missing"
  if [ -d "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$wheels"/*.whl
    export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
  else
    # Here pip keeps what the interpreter has, as --target would not.
    "$python" -m venv --system-site-packages "$site"
    python=$site/bin/python
    "$python" -m pip install --quiet $missing
  fi
fi
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}
"$python" -m benchmarks.gpu "$@"
