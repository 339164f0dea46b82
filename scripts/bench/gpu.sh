#!/usr/bin/env bash
# Everything that needs a GPU, in under ten minutes on a fresh machine: tests, benchmarks, packs, speedruns.
#
#     scripts/bench/gpu.sh [--dry] [--only NAME]... [--plan FILE]
#
# Each part has a time limit and the next one runs whatever came of it. The exit code is 0 when all parts passed, 1 when
# one failed or ran out of time, 2 when nothing could be run. A table at the end says what came of each part.
#
#   --dry        print the plan with its limits and run nothing; needs no GPU
#   --only NAME  only this part; may be given again
#   --plan FILE  other parts: one line each, "NAME SECONDS COMMAND"
#
#   PYTHON       the Python to use (python3); it needs torch >= 2.11 with CUDA
#   DATA         folder with MNIST/raw, FashionMNIST/raw and tinyshakespeare (build/gpu/data, else ../shared/data)
#   RESULTS      folder for results and logs (build/gpu/results)
#   OUT          where set, results.tar.gz, summary.md and gpu.log are copied there after every part
#
# A machine without a network, lent for one command at a time (at present its limits are: 64 MiB travel, at most 8
# carried paths, 10 minutes a command, 8 files come back, 2,000 characters a command). Here, in the repository's root:
#
#     scripts/bench/gpu_carry.sh            # wheels and data sets into build/gpu, which git ignores
#
# then one call of the device tool with
#
#     command:   scripts/bench/gpu.sh
#     carry:     ["build/gpu"]
#     timeout_s: 600
#
# Where hydra, omegaconf or optuna is missing, the wheels of build/gpu are installed in a folder of this run alone; dlrun
# itself runs from src/.
set -u
cd -- "$(dirname -- "$(readlink -f -- "$0")")/../.." || exit 2
carried=build/gpu
python=${PYTHON:-python3}
results=${RESULTS:-$carried/results}
data=${DATA:-}
if [ -z "$data" ]; then data=../shared/data; [ -d "$carried/data" ] && data=$carried/data; fi

# Limits in seconds; they add up to less than 600, so that one call of the device tool holds them all.
plan() {
    local bench="$python scripts/bench" own="--ways dlrun tensors loader graph lightning"
    cat <<END
tests 120 env CUBLAS_WORKSPACE_CONFIG=:4096:8 $python -m pytest -m gpu -p no:cacheprovider -n 4 --dist worksteal --timeout 100 tests
steps-short 70 $bench steps --root $data --repeats 3 $own --cases mlp32 mlp128 lenet5 autoencoder --results $results/short
steps-long 70 $bench steps --root $data --repeats 2 $own --cases resnet20 lstm transformer gan rbm --results $results/long
cold 40 $bench cold --root $data --repeats 2 --results $results
data 30 $bench data --root $data --repeats 2 --results $results
observability 30 $bench observability --root $data --repeats 2 --results $results
memory 40 $bench memory --root $data --ways dlrun tensors --results $results
packing 40 $bench packing --root $data --repeats 2 --seconds 0.3 --threads 1 --lanes 1 16 64 --ways serial graph eager --results $results
mnist 30 $python scripts/bench/speedruns.py mnist --root $data --seeds 10 --cold --results $results
fashion_mnist 45 $python scripts/bench/speedruns.py fashion_mnist --root $data --seeds 1 --results $results
shakespeare 65 $python scripts/bench/speedruns.py shakespeare --root $data --seeds 1 --results $results
END
}

dry='' only=' ' file=''
while [ $# -gt 0 ]; do
    case $1 in
        --dry) dry=yes ;;
        --only) only="$only${2:-} " && shift ;;
        --plan) file=${2:-} && shift ;;
        *) echo "gpu.sh: there is no option $1; the first lines of $0 say what there is" >&2 && exit 2 ;;
    esac
    shift
done
if [ -n "$file" ]; then parts=$(cat -- "$file") || exit 2; else parts=$(plan); fi
if [ "$only" != ' ' ]; then
    parts=$(while read -r name rest; do case $only in *" $name "*) echo "$name $rest" ;; esac; done <<<"$parts")
    [ -n "$parts" ] || { echo "gpu.sh: there is no part called$only" >&2; exit 2; }
fi

if [ -n "$dry" ]; then
    total=0
    while read -r name limit command; do
        printf '%-14s %4d s  %s\n' "$name" "$limit" "$command"
        total=$((total + limit))
    done <<<"$parts"
    printf '%-14s %4d s  at most; data from %s, results into %s\n' total "$total" "$data" "$results"
    exit 0
fi

mkdir -p "$results" && log=$results/gpu.log && : >"$log" || exit 2
export PYTHONPATH=$PWD/src${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 DLRUN_DATA=$data
if ! "$python" -c 'import hydra, omegaconf, optuna' 2>/dev/null && compgen -G "$carried/wheels/*.whl" >/dev/null; then
    site=$(mktemp -d) && export PYTHONPATH=$PYTHONPATH:$site
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$site" "$carried"/wheels/*.whl || exit 2
fi
if [ -z "$file" ]; then
    "$python" - <<'END' 2>&1 | tee -a "$log"
import sys, torch
if not torch.cuda.is_available():
    sys.exit("gpu.sh: torch sees no CUDA device here; gpu.sh --dry prints the plan")
import dlrun.run
print(torch.cuda.get_device_name(), "Python", sys.version.split()[0], "torch", torch.__version__)
END
    [ "${PIPESTATUS[0]}" = 0 ] || exit 2
fi

# After every part: when the whole command is cut off, what is done by then is there.
copy_out() {
    [ -n "${OUT:-}" ] || return 0
    tar -czf "$OUT/results.tar.gz" -C "$results" . && cp -- "$results/summary.md" "$log" "$OUT/"
}

failed=0
printf '| part | outcome | seconds | limit |\n|---|---|---|---|\n' >"$results/summary.md"
while read -r name limit command; do
    printf '\n== %s (at most %s s): %s\n' "$name" "$limit" "$command" | tee -a "$log"
    started=$SECONDS
    timeout --kill-after=5 "$limit" bash -c "$command" </dev/null 2>&1 | tee -a "$log" | tail -n 15
    code=${PIPESTATUS[0]}
    case $code in
        0) outcome=passed ;;
        124 | 137) outcome='out of time' failed=1 ;;
        *) outcome="failed with $code" failed=1 ;;
    esac
    echo "| $name | $outcome | $((SECONDS - started)) | $limit |" >>"$results/summary.md"
    copy_out
done <<<"$parts"
printf '\n' && cat -- "$results/summary.md"
exit "$failed"
