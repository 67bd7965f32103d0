#!/usr/bin/env bash
# A Slurm of one node on this machine's loopback, from Debian's packages; for trying out and for the tests.
#
#   tests/slurm/one_node.sh start FOLDER     writes everything into FOLDER and prints what to put into the environment
#   tests/slurm/one_node.sh stop FOLDER
#   tests/slurm/one_node.sh install          apt-get install of the packages it needs
#
# It needs root (slurmd starts jobs as their users), and neither systemd, cgroups nor a database. Without a database
# there is no sacct; submitit asks it how jobs are, so a stand-in that asks squeue comes first on the path. squeue
# forgets what has ended after MinJobAge seconds, hence its length.
set -euo pipefail

install() {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge libpmix2
}

start() {
  local folder=$1 host memory
  host=$(hostname -s)
  memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) / 1024 - 512))
  mkdir -p "$folder"/{log,state,spool,bin}
  chmod 755 "$folder"
  head -c 1024 /dev/urandom >"$folder/munge.key"
  chmod 400 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.sock" --pid-file="$folder/munged.pid" \
    --log-file="$folder/log/munged.log" --seed-file="$folder/munged.seed" --num-threads=1
  cat >"$folder/slurm.conf" <<CONF
ClusterName=loop
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=requeue_delay=1
ReturnToService=2
MinJobAge=36000
KillWait=2
JobRequeue=1
SlurmctldPort=${SLURM_PORT:-26817}
SlurmdPort=$((${SLURM_PORT:-26817} + 1))
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  cat >"$folder/bin/sacct" <<'SACCT'
#!/bin/bash
echo 'JobID|State|NodeList'
exec squeue -h -r -t all -o '%i|%T|%N'
SACCT
  chmod 755 "$folder/bin/sacct"
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF" -N "$host"
  for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then
      echo "export SLURM_CONF=$SLURM_CONF PATH=$folder/bin:\$PATH"
      return
    fi
    sleep 0.5
  done
  echo "the node did not become idle; see $folder/log" >&2
  exit 1
}

stop() {
  local folder=$1 name
  export SLURM_CONF="$folder/slurm.conf"
  squeue -h -r -o %i 2>/dev/null | xargs -r scancel || true
  for _ in $(seq 40); do # a step that cannot report its end to slurmctld would stay for good
    if [ -z "$(squeue -h -t running,completing 2>/dev/null)" ]; then break; fi
    sleep 0.25
  done
  for name in slurmd slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" 2>/dev/null || true; fi
  done
}

"$@"
