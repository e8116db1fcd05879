#!/bin/sh
# bootstrap.sh [dev|policy]: makes the virtual environment .venv from requirements.txt, with nothing but a shell and
# python3; with `dev` also from requirements-dev.txt, which lint and tests need. `policy` makes another environment, that
# of the policy pack: policy/.venv from policy/requirements.txt. What was done last is in made-from (and made-from-dev) of
# the environment, written when all is done: without it, or when the requirements (or the interpreter) are not the ones
# that it names, the work is done again. pip takes only wheels with a checksum that the requirements have: a source
# distribution would run its own code. Talks on stderr only.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }

# wanted REQUIREMENTS, fresh REQUIREMENTS RECORD: what an environment is made from, and whether it is. By the environment's
# own interpreter: another python3 on PATH does not make it unfit, and to look for one takes a second with pyenv.
wanted() { { "$environment/bin/python" -V; sha256sum "$1"; } 2>&1; }

fresh() { [ -x "$environment/bin/python" ] && [ -f "$environment/$2" ] && [ "$(wanted "$1")" = "$(cat "$environment/$2")" ]; }

all_fresh() {
  fresh "$requirements" made-from && { [ "$for_whom" != dev ] || fresh requirements-dev.txt made-from-dev; }
}

find_python() {
  for candidate in python3 python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "Python 3.11 or newer is needed; this machine has $(python3 -V 2>&1 || true)."
  say "Debian 12 and Ubuntu 24.04 have it: apt-get install python3. Elsewhere put a newer python3 first in PATH."
  return 1
}

# Debian ships python3 without ensurepip, and then `venv` fails after it has begun.
install_venv_module() {
  as_root=
  if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    if ! command -v sudo >/dev/null; then
      say "The package python3-venv is missing, and this user is neither root nor has sudo."
      say "Ask an administrator for: apt-get install python3-venv"
      return 1
    fi
  fi
  say "Installing the package python3-venv ..."
  DEBIAN_FRONTEND=noninteractive
  export DEBIAN_FRONTEND
  apt="$as_root apt-get -qq -o DPkg::Lock::Timeout=600 -o Dpkg::Use-Pty=0"
  # The lists may be old or absent: they are fetched only when the package cannot be had with those that are there.
  $apt install --yes --no-install-recommends python3-venv >/dev/null 2>&1 || {
    $apt update >/dev/null
    $apt install --yes --no-install-recommends python3-venv >/dev/null
  }
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    say "$python cannot make virtual environments, even with python3-venv installed: it is not Debian's own."
    say "Install its venv and ensurepip modules, or put /usr/bin first in PATH."
    return 1
  fi
}

make_environment() {
  # What it leads to may be another checkout's: --clear would empty that.
  if [ -L "$environment" ]; then
    say "$PWD/$environment is a symbolic link, and what it leads to is not made from these requirements. Remove the link."
    return 1
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || install_venv_module
  say "Making the virtual environment $environment (a minute or two) ..."
  rm -f "$environment/made-from" "$environment/made-from-dev"
  "$python" -m venv --clear "$environment"
  install_packages "$requirements" made-from
}

# install_packages REQUIREMENTS RECORD
install_packages() {
  # Where a user's own settings send packages (PIP_USER=1 and its kind) is meant for other environments.
  unset PIP_TARGET PIP_PREFIX PIP_ROOT PIP_PYTHON PYTHONPATH PYTHONHOME
  "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-user \
    --require-hashes --only-binary=:all: --requirement "$1" >&2
  "$environment/bin/python" -m pip check --quiet --disable-pip-version-check >&2
  wanted "$1" > "$environment/$2.new"
  mv "$environment/$2.new" "$environment/$2"
}

# With sudo, or as root in the checkout of another user: what is made here is that user's, also after a failure.
hand_over() {
  owner=$(stat -c %u:%g .)
  if [ "$(id -u)" -eq 0 ] && [ "${owner%%:*}" -ne 0 ]; then
    for made in "$environment" .state; do
      [ ! -e "$made" ] || chown -R --no-dereference --from=0 "$owner" "$made"
    done
  fi
}

check_writable() {
  for needed in . .state .state/bootstrap.lock "$environment"; do
    if [ -e "$needed" ] && [ ! -w "$needed" ]; then
      say "This user may not write to $PWD/$needed. Run the command with sudo, like: sudo ./hardway up"
      return 1
    fi
  done
}

for_whom=${1:-}
environment=.venv requirements=requirements.txt
[ "$for_whom" != policy ] || environment=policy/.venv requirements=policy/requirements.txt
if ! all_fresh; then
  python=$(find_python)
  check_writable
  trap hand_over EXIT
  trap 'exit 130' HUP INT TERM
  mkdir -p -m 700 .state
  # Two runs at once: the second waits here and finds the work done. The kernel drops the lock with its holder.
  exec 9> .state/bootstrap.lock
  flock --nonblock 9 || { say "Waiting for another run that makes the virtual environment ..."; flock 9; }
  fresh "$requirements" made-from || make_environment
  if ! all_fresh; then
    say "Installing what lint and tests need into .venv ..."
    rm -f .venv/made-from-dev
    install_packages requirements-dev.txt made-from-dev
  fi
fi
