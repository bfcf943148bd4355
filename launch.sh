#!/usr/bin/env bash
# One door to everything: makes the environment when it is needed, then runs the program, the tests or the linters.
# Works from any folder, through a link, and in a checkout whose path has spaces. `./launch.sh help` tells how.
set -euo pipefail

readonly TORCH_TESTED=2.13.0
readonly TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
# As in pyproject.toml: the oldest that serve, and the first torch that is not tested.
readonly TORCH_OLDEST=2.11
readonly TORCH_UNTESTED=3
readonly PYTHON_OLDEST=3.11

usage() {
    cat <<'TEXT'
usage: ./launch.sh COMMAND [ARGUMENTS]

  demo                  answer questions about a generated video on two processes
  ask VIDEO QUESTION    answer a question about a video; every other word of `spava` works too
  run SCRIPT [ARGS]     run a Python script in the environment
  test [PYTEST ARGS]    run the tests; --all adds the slow ones, and those for a GPU where there is one
  lint                  ruff, pyright and the import rules
  help                  this text

The active virtual environment is used; without one, .venv is made here. Settings, as environment variables:

  PYTHON=python3.12      the interpreter that makes .venv (3.11 or newer)
  SPAVA_TORCH_INDEX=URL  where to take torch from, when none is installed (without a GPU: the small CPU build)
  SPAVA_SKIP_INSTALL=1   install nothing, use the environment as it is

With NNODES or NPROC_PER_NODE set, `run` and the words of `spava` start under torchrun (docs/machines.md):

  NPROC_PER_NODE=4       processes on this machine (the number of its GPUs, or 1)
  NNODES=2               machines; start the same command on each
  NODE_RANK=0            which of them this is; 0 gives the answer
  MASTER_ADDR=10.0.0.1   an address of machine 0 that the others reach
  MASTER_PORT=29500      a free port of machine 0
TEXT
}

say() { printf 'launch.sh: %s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# The folder of this file, with links to the file followed. No `readlink -f`: older macOS has none.
repository() {
    local file=${BASH_SOURCE[0]} folder
    while [[ -L $file ]]; do
        folder=$(cd -P -- "$(dirname -- "$file")" && pwd)
        file=$(readlink -- "$file")
        [[ $file == /* ]] || file=$folder/$file
    done
    cd -P -- "$(dirname -- "$file")" && pwd
}

# step WHAT COMMAND...: runs an installation step. Everything goes to stderr, because stdout belongs to the program.
# On a terminal its output (a progress bar) is shown, otherwise only when it fails.
step() {
    local what=$1 status=0 log
    shift
    say "$what ..."
    if [[ -t 2 ]]; then
        "$@" >&2 || status=$?
    else
        log=$(mktemp)
        "$@" >"$log" 2>&1 || status=$?
        ((status == 0)) || tail -n 30 "$log" >&2
        rm -f -- "$log"
    fi
    ((status == 0)) || die "this step failed with status $status: $what"
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] < tuple(map(int, sys.argv[1].split("."))))' \
        "$PYTHON_OLDEST" 2>/dev/null
}

# The version of an interpreter as 3.11; nothing where it does not start.
minor() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Prints the first interpreter that serves: of the name or path in PYTHON, else of those that are usual. pyenv puts the
# names of all its versions on the path, and runs only those that are chosen: the others are found in its folder.
find_python() {
    local name file
    local -a names=(python3 python3.13 python3.12 python3.11 python3.14)
    [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
    for name in "${names[@]}"; do
        for file in "$(command -v "$name")" "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"$name"; do
            if [[ -x $file ]] && is_new_enough "$file"; then
                printf '%s\n' "$file"
                return
            fi
        done
    done
    return 1
}

make_environment() {
    local base
    base=$(find_python) || die "Python $PYTHON_OLDEST or newer is needed:" \
        "${PYTHON:-python3} is not found, is older or does not start (PYTHON=/path/to/python3 ./launch.sh ...)"
    step "making a virtual environment in $1 with $base" "$base" -m venv --clear "$1"
}

# True when a torch that serves is installed. Reads metadata only: importing torch takes seconds.
has_torch() {
    "$python" - "$TORCH_OLDEST" "$TORCH_UNTESTED" <<'CODE' 2>/dev/null
import sys
from importlib.metadata import version
oldest, found, untested = (
    tuple(map(int, text.split(".")[:2])) for text in (sys.argv[1], version("torch"), sys.argv[2])
)
sys.exit(not oldest <= found < untested)
CODE
}

has_gpu() { command -v nvidia-smi >/dev/null && [[ $(nvidia-smi -L 2>/dev/null) == GPU* ]]; }

# torch comes first and alone, so that the project's own looser bound finds it there and fetches nothing newer.
install_torch() {
    local -a where=()
    has_torch && return
    if [[ -n ${SPAVA_TORCH_INDEX:-} ]]; then
        where=(--index-url "$SPAVA_TORCH_INDEX")
    elif [[ $(uname -s) == Linux ]] && ! has_gpu; then
        # PyPI's build for Linux brings gigabytes of CUDA; the CPU build, where it can be had, wins by its version.
        where=(--retries 1 --extra-index-url "$TORCH_CPU_INDEX")
    fi
    step "installing torch $TORCH_TESTED" \
        "$python" -m pip install ${where[@]+"${where[@]}"} "torch==$TORCH_TESTED"
}

# install KIND: brings the environment up to date for KIND (run or dev). A stamp in the environment says what it was
# installed from, so that a second start does nothing; dev holds all that run needs.
install() {
    local kind=$1 want target=$root stamp
    want="$(cksum <"$root/pyproject.toml") $("$python" -c 'import sys; print(sys.version)') $root"
    for stamp in dev "$kind"; do
        [[ $(cat -- "$environment/.spava-$stamp" 2>/dev/null) != "$want" ]] || return 0
    done
    is_new_enough "$python" || die "Python $PYTHON_OLDEST or newer is needed, and $python is older"
    "$python" -m pip --version >/dev/null 2>&1 ||
        step "installing pip in $environment" "$python" -m ensurepip --upgrade
    install_torch
    [[ $kind == run ]] || target="${root}[$kind]"
    step "installing spava-app ($kind)" "$python" -m pip install -e "$target"
    printf '%s\n' "$want" >"$environment/.spava-$kind" || die "cannot write in $environment"
}

# prepare KIND: sets `environment` and `python`, made and installed as needed.
prepare() {
    environment=${VIRTUAL_ENV:-$root/.venv}
    python=$environment/bin/python
    if [[ -n ${VIRTUAL_ENV:-} ]]; then
        [[ -x $python ]] || die "VIRTUAL_ENV=$VIRTUAL_ENV holds no bin/python"
    elif [[ -n ${SPAVA_SKIP_INSTALL:-} ]]; then
        [[ -x $python ]] || python=$(find_python) || die "Python $PYTHON_OLDEST or newer is needed"
    elif ! [[ -x $python ]] || ! "$python" -c '' 2>/dev/null; then
        make_environment "$environment"
    elif [[ -n ${PYTHON:-} && $(minor "$python") != $(minor "$(find_python)") ]]; then
        say "PYTHON=$PYTHON has no effect: $environment is there, with Python $(minor "$python"); remove it first"
    fi
    [[ -n ${SPAVA_SKIP_INSTALL:-} ]] || install "$1"
}

run_tests() {
    local arg all=
    local -a args=()
    for arg in "$@"; do
        if [[ $arg == --all ]]; then all=1; else args+=("$arg"); fi
    done
    if [[ -n $all ]]; then
        # A later -m replaces the one in pyproject.toml, so it stands before what the user wrote.
        if has_gpu; then arg=; else arg="not gpu"; fi
        args=(-m "$arg" ${args[@]+"${args[@]}"})
    fi
    cd -- "$root"
    exec "$python" -m pytest ${args[@]+"${args[@]}"}
}

# start ARGUMENTS: runs python with them; under torchrun when several processes are asked for.
start() {
    local -a options=()
    [[ -n ${NNODES:-}${NPROC_PER_NODE:-} ]] || exec "$python" "$@"
    options=(--nproc-per-node "${NPROC_PER_NODE:-$(if has_gpu; then echo gpu; else echo 1; fi)}")
    # Said here, or torchrun says it for us, in five lines. It is not about the workers.
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    if [[ ${NNODES:-1} == 1 ]]; then
        # torchrun's own store would listen on every interface: here the processes meet by a file.
        export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
        options+=(--rdzv-backend c10d --rdzv-conf store_type=file --rdzv-endpoint "$(mktemp)")
    else
        [[ -n ${NODE_RANK:-} ]] || die "NNODES=$NNODES needs NODE_RANK: 0 on the first machine, then 1, and so on"
        [[ -n ${MASTER_ADDR:-} ]] || die "NNODES=$NNODES needs MASTER_ADDR: an address of machine 0 that all reach"
        options+=(--nnodes "$NNODES" --node-rank "$NODE_RANK")
        options+=(--master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}")
    fi
    exec "$python" -m torch.distributed.run "${options[@]}" "$@"
}

# Every linter runs, so that one go shows all there is to mend.
run_lint() {
    local status=0
    cd -- "$root"
    "$python" -m ruff check . || status=1
    "$python" -m ruff format --check . || status=1
    "$python" -m pyright --pythonpath "$python" || status=1
    # No cache: it keeps imports of modules that did not exist yet as unresolved.
    "$(dirname -- "$python")/lint-imports" --no-logo --no-cache || status=1
    exit "$status"
}

main() {
    local word=${1:-}
    root=$(repository)
    # Keeps the current folder off the import path: there, `kernels` would be taken for Hugging Face's package.
    export PYTHONSAFEPATH=1
    case $word in
    "")
        usage >&2
        exit 2
        ;;
    help | -h | --help) usage ;;
    test)
        shift
        prepare dev
        run_tests "$@"
        ;;
    lint)
        prepare dev
        run_lint
        ;;
    run)
        shift
        (($# > 0)) || die "run needs a script: ./launch.sh run script.py"
        prepare run
        start "$@"
        ;;
    *)
        prepare run
        start -m spava_app "$@"
        ;;
    esac
}

main "$@"
