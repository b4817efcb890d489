#!/usr/bin/env bash
# Usage: [PARTS="cluster faktory docker"] tests/cluster-up.sh pytest [arguments]
#
# Runs the tests that need real servers, on those that KUBECONFIG, FAKTORY_URL and DOCKER_HOST name. Where a variable
# isn't set, the server is started with docker and kind and removed at the end. ~/.kube/config is never used: it may be
# somebody's production.
set -euo pipefail

FAKTORY_IMAGE=${FAKTORY_IMAGE:-contribsys/faktory:1.9.3}
PARTS=${PARTS:-cluster faktory docker}
name=longshore-test-$$
container=
kind_cluster=
scratch=
missing=()

say() { printf 'test-cluster: %s\n' "$*" >&2; }

cleanup() { # only what was started below
  trap '' INT TERM
  [[ -z $container ]] || docker rm --force "$container" >/dev/null || say "could not remove the container $container"
  [[ -z $kind_cluster ]] || kind delete cluster --name "$kind_cluster" >/dev/null 2>&1 || say "could not remove the kind cluster $kind_cluster"
  [[ -z $scratch ]] || rm -rf "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

engine_answers() { command -v docker >/dev/null 2>&1 && docker info --format '{{.ServerVersion}}' 2>/dev/null | grep -q .; }
wants() { [[ " $PARTS " == *" $1 "* ]]; }

start_faktory() {
  local address host port deadline=$((SECONDS + 60))
  say "starting Faktory ($FAKTORY_IMAGE)"
  container=$(docker run --detach --name "$name-faktory" --publish 127.0.0.1::7419 "$FAKTORY_IMAGE" /faktory -b :7419 -w :7420) || {
    container=
    missing+=("faktory: docker could not run $FAKTORY_IMAGE; set FAKTORY_URL to a server for tests")
    return
  }
  address=$(docker port "$container" 7419/tcp | head -n 1)
  host=${address%:*} port=${address##*:}
  until [[ $( (exec 3<>"/dev/tcp/$host/$port" && read -r -t 2 line <&3 && echo "$line") 2>/dev/null) == +HI* ]]; do
    if ((SECONDS > deadline)); then
      docker logs "$container" >&2 || true
      missing+=("faktory: the container did not answer within 60 s")
      return
    fi
    sleep 0.2
  done
  export FAKTORY_URL=tcp://$address
}

start_cluster() {
  scratch=$(mktemp -d)
  say "starting a cluster with kind"
  kind_cluster=$name
  if ! KUBECONFIG=$scratch/kubeconfig kind create cluster --name "$kind_cluster" --wait 180s >"$scratch/kind.log" 2>&1; then
    tail -n 20 "$scratch/kind.log" >&2
    missing+=("cluster: kind could not create a cluster; set KUBECONFIG to one for tests")
    return
  fi
  export KUBECONFIG=$scratch/kubeconfig
}

if wants faktory && [[ -z ${FAKTORY_URL:-} ]]; then
  if engine_answers; then start_faktory; else missing+=("faktory: FAKTORY_URL isn't set, and there is no docker to start a server with"); fi
fi
if wants cluster && [[ -z ${KUBECONFIG:-} ]]; then
  if engine_answers && command -v kind >/dev/null 2>&1; then
    start_cluster
  else
    missing+=("cluster: KUBECONFIG isn't set, and there are not both docker and kind to start a cluster with")
  fi
fi
if wants docker && [[ -z ${DOCKER_HOST:-} ]]; then
  if engine_answers; then
    DOCKER_HOST=$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || echo unix:///var/run/docker.sock)
    export DOCKER_HOST
  else
    missing+=("docker: DOCKER_HOST isn't set, and no docker engine answers")
  fi
fi

if ((${#missing[@]})); then
  say "these tests can't run:"
  for line in "${missing[@]}"; do say "  $line"; done
  say "PARTS names the parts to run, for example: make test-cluster PARTS=faktory"
  exit 2
fi

markers=${PARTS// / or }
code=0
"$@" -m "$markers" || code=$?
exit "$code"
