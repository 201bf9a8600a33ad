# The steps of .ci/run and .ci/full. Needs Python >= 3.11 and package registries, nothing else.
# `sample` holds the options of pytest that leave out what is not drawn; without any, all tests are played.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export UV_COMPILE_BYTECODE=1 # once for all processes of an environment
sample=()
scratch=$(mktemp -d)
trap 'wait; rm -rf "$scratch"' EXIT
times=$scratch/times

# Runs a step, and notes how long it took.
step() { # title, then a command
  local begun=$SECONDS
  printf '\n=== %s\n' "$1"
  "${@:2}"
  printf '%4d:%02d  %s\n' $(((SECONDS - begun) / 60)) $(((SECONDS - begun) % 60)) "$1" >>"$times"
}

# Runs a step beside the next ones; its log is shown by `finish`.
beside() { # name, title, then a command
  (step "${@:2}") >"$scratch/$1.log" 2>&1 &
  echo $! >"$scratch/$1.pid"
}

finish() { # name
  local failed=0
  wait "$(cat "$scratch/$1.pid")" || failed=$?
  cat "$scratch/$1.log"
  return "$failed"
}

summary() {
  printf '\n=== Minutes by step (%d:%02d in all; some ran side by side)\n' $((SECONDS / 60)) $((SECONDS % 60))
  cat "$times"
}

# What the tests need of the system. Where it cannot be installed, the tests that need it say so.
prepare() {
  command -v uv >/dev/null || pip install --quiet uv || pipx install uv
  install chromium chromium
  install postgres postgresql
  install redis-server redis-server
  uv sync --quiet --group test --group lint
}

install() { # command, then packages
  command -v "$1" >/dev/null || ls /usr/lib/postgresql/*/bin/"$1" >/dev/null 2>&1 && return
  command -v apt-get >/dev/null && [ "$(id -u)" = 0 ] || return 0
  echo "Installing ${*:2}"
  (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${@:2}") >/dev/null || true
}

lint() {
  uv run --group test --group lint ruff check .
  uv run --group test --group lint ruff format --check .
  uv run --group test --group lint mypy
  uv run --group test --group lint mypy --strict tests/airflow/dags/every_operator.py
}

vulnerabilities() {
  uv export --quiet --no-dev --extra local --no-hashes --no-emit-project -o "$scratch/requirements.txt" >/dev/null
  uv run --no-project --python ">=3.11" python .ci/audit.py "$scratch/requirements.txt"
}

readme_command() {
  uv run --group test pytest
}

newest_python() {
  local newest
  newest=$(ls -d "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.1[2-9]*/bin/python 2>/dev/null | sort -V | tail -1 || true)
  [ -n "$newest" ] || { echo "SKIPPED: no Python newer than 3.11 is installed here"; return 0; }
  "$newest" --version
  UV_PROJECT_ENVIRONMENT="$scratch/newest" uv run --quiet --python "$newest" --group test pytest -n 2 \
    tests/unit/test_{kill,trigger,package}.py
}

lowest_versions() {
  uv venv --quiet --python 3.11 "$scratch/lowest"
  uv pip install --quiet --python "$scratch/lowest/bin/python" --resolution lowest-direct -e ".[local]"
  uv pip install --quiet --python "$scratch/lowest/bin/python" \
    "pytest>=8.3,<9" pytest-timeout pytest-xdist "hypothesis>=6.120" pyyaml cryptography
  # Without what one line of Airflow does otherwise.
  timeout 600 "$scratch/lowest/bin/python" -m pytest -n 3 tests/unit/test_{hook,trigger,imports}.py \
    --deselect tests/unit/test_trigger.py::TestMany::test_of_a_killed_run_one_answer_is_enough
}

wheel() {
  uv build --quiet --out-dir "$scratch/dist"
  uv tool run --quiet twine check --strict "$scratch"/dist/*
  uv venv --quiet "$scratch/venv"
  uv pip install --quiet --python "$scratch/venv/bin/python" "$scratch"/dist/*.whl
  AIRFLOW_HOME="$scratch/airflow" "$scratch/venv/bin/airflow" providers list --output plain | grep '^airflow-provider-dli '
  # The files of the page DLI jobs are in it.
  (cd "$scratch" && ls venv/lib/python*/site-packages/airflow_provider_dli/jobs_page/static/page.{html,js,css})
  # The demo runs from the wheel too, with nothing of this checkout visible.
  uv pip install --quiet --python "$scratch/venv/bin/python" "airflow-provider-dli[local] @ $(ls "$scratch"/dist/*.whl)"
  DLI_LOCAL="$scratch/venv/bin/dli-local" timeout 600 uv run --group test \
    pytest -n 3 -m matrix "${sample[@]}" tests/airflow/test_demo.py
}

# From here on, what is missing is a failure, no skip.
strict() {
  export DLI_TEST_NO_SKIP=1
  export DLI_AIRFLOW_LINES="$scratch/lines" # all steps share these environments
}

slow_tests() {
  timeout 1200 uv run --group test pytest -m matrix "${sample[@]}" tests/unit
}

histories() { # seed
  renice -n 5 $BASHPID >/dev/null || true
  HISTORIES=1000 uv run --group test pytest -n 0 --timeout 1200 --hypothesis-seed="$1" tests/unit/test_histories.py
}

kills() {
  timeout 2700 uv run --group test pytest -n 3 -m matrix "${sample[@]}" tests/airflow tests/browser \
    --ignore tests/airflow/test_lines.py --ignore tests/airflow/test_celery.py \
    --ignore tests/airflow/test_many.py --ignore tests/airflow/test_thousand.py \
    --ignore tests/airflow/test_integrations.py --ignore tests/airflow/test_fab.py --ignore tests/airflow/test_demo.py
}

lines() {
  timeout 2700 uv run --group test pytest -n 2 -m matrix "${sample[@]}" tests/airflow/test_lines.py
}

many() {
  timeout 1500 uv run --group test pytest -n 0 -m matrix "${sample[@]}" tests/airflow/test_many.py
}

thousand() {
  timeout 900 uv run --group test pytest -n 0 -m matrix tests/airflow/test_thousand.py
}

# In an environment of its own: with OpenLineage, each task does more.
integrations() {
  timeout 900 uv run --isolated --group test --group integrations \
    pytest -n 0 -m "" tests/airflow/test_{integrations,fab}.py tests/unit/test_{lineage,assets,frames}.py
}

celery() {
  timeout 900 uv run --isolated --group test --group celery pytest -n 0 -m matrix tests/airflow/test_celery.py
}

soak() {
  timeout 900 uv run --group test python tests/benchmarks/soak.py --minutes 1 --disturb
}

mutants() {
  DLI_TEST_PACE=1 uv run --group test python tests/mutants/run.py --workers 2
}

benchmark() { # file, then its options
  AIRFLOW_HOME="$scratch/airflow" uv run --group test python "tests/benchmarks/$1.py" "${@:2}"
}

declare -A title=(
  [many]="Hundreds of deferred tasks in one triggerer"
  [thousand]="A thousand deferred tasks in one triggerer"
  [integrations]="OpenLineage, pandas and polars, and the users and roles of FAB"
  [celery]="Kills on CeleryExecutor"
  [soak]="Random kills, restarts and faults, and the sweep"
)
