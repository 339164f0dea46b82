#!/usr/bin/env bash
# Collects into build/gpu what a GPU machine without a network lacks: wheels of pure Python packages, and data sets.
#
#     scripts/bench/gpu_carry.sh [--dry] [DATA]
#
# For Python 3.12 on x86-64 with torch, torchvision, tensorboard, rich, scikit-learn and pytest there already. DATA is
# the folder of the data sets (../shared/data). All that travels may be 64 MiB with the repository; this is measured.
#
#   PYTHON  a Python with pip (python3)
set -eu
cd -- "$(dirname -- "$(readlink -f -- "$0")")/../.."
python=${PYTHON:-python3}
limit=$((64 * 1024))  # KiB
here=build/gpu

# What dlrun imports and the machine has not; antlr4 has no wheel of its own and is built here.
wheels='hydra-core==1.3.8 omegaconf==2.3.1 optuna==5.0.0 alembic==1.20.1 Mako colorlog SQLAlchemy cmaes==0.13.1'
built='antlr4-python3-runtime==4.9.3'
files='MNIST/raw FashionMNIST/raw tinyshakespeare/input.txt'

dry=''
if [ "${1:-}" = --dry ]; then dry=yes && shift; fi
data=${1:-../shared/data}
if [ -n "$dry" ]; then
    printf 'wheels: %s\nbuilt here: %s\ndata from %s: %s\ninto %s\n' "$wheels" "$built" "$data" "$files" "$here"
    exit 0
fi

rm -rf "$here/wheels" "$here/data" "$here/results"
mkdir -p "$here/wheels" "$here/data"
platforms='--platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64'
# shellcheck disable=SC2086 # lists of words
"$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
    -d "$here/wheels" $wheels
# shellcheck disable=SC2086
"$python" -m pip wheel -q --no-deps -w "$here/wheels" $built
for name in $files; do
    if [ ! -e "$data/$name" ]; then echo "gpu_carry.sh: there is no $data/$name" >&2 && exit 2; fi
    mkdir -p "$here/data/$(dirname -- "$name")"
    cp -RL -- "$data/$name" "$here/data/$(dirname -- "$name")/"
done
chmod -R u+w "$here/data"
size=$(du -sk "$here" | cut -f1)
tracked=$(git ls-files -z --cached --others --exclude-standard | du -ck --files0-from=- 2>/dev/null | tail -n 1 | cut -f1)
printf '%s: %d KiB, the repository %d KiB, %d may travel\n' "$here" "$size" "$tracked" "$limit"
if [ $((size + tracked)) -gt "$limit" ]; then echo "gpu_carry.sh: that is too much" >&2 && exit 2; fi
