#!/bin/bash
# leaks.sh - many jobs, one after another and each removed: the resident memory of daemon and worker stays where it was
# after the first ones, with the stand-in for the worker and with the real one on the small reference model.
# JOBS (1000) of the stand-in, REAL_JOBS (0) of the model; `make check-leaks` runs 1,000 of each. Fewer than some hundred jobs say
# nothing: until then stacks, buffers and pages of the program are touched for the first time.
# shellcheck disable=SC2034 # state is read by lib.sh
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
case $TRELLIS_BUILD in *san) echo "a sanitizer keeps freed memory"; exit 77 ;; esac
resident() { awk '/^VmRSS/ {print $2}' "/proc/$1/status"; }
# Of that what is not of files: pages of programs and libraries that are used for the first time are no leak.
anonymous() { awk '/^RssAnon/ {print $2}' "/proc/$1/status"; }

# run_jobs NAME JOBS PICTURE - batches of ten; what is compared is the memory after a fifth of them and at the end
run_jobs() {
	local name=$1 jobs=$2 picture=$3 begin=$SECONDS made=0 i pid worker=() daemons=() anonymous=""
	while [ $made -lt "$jobs" ]; do
		for i in $(seq 10); do
			echo "seed = $((made + i))" >"$mnt/config"
			cp "$picture" "$mnt/in/$i.png"
		done
		made=$((made + 10))
		for _ in $(seq 6000); do
			[ "$(field '.done + .failed')" -ge $made ] && break
			sleep 0.1
		done
		rm "$mnt"/in/*.png "$mnt"/out/*
		[ $((made % (jobs / 5))) = 0 ] || continue
		pid=$(field .worker.pid)
		daemons+=("$(resident $daemon)") worker+=("$(resident "$pid")")
		anonymous+=" $(anonymous $daemon)/$(anonymous "$pid")"
	done
	[ "$(field .done)" = $made ] || fail "$name: $(field .done) jobs of $made were done"
	[ "$(field .worker.starts)" = 1 ] || fail "$name: $(field .worker.starts) workers were started"
	echo "$name: $made jobs in $((SECONDS - begin)) s; KiB after each fifth: daemon ${daemons[*]}, worker ${worker[*]}; not of files$anonymous"
	[ $((daemons[-1] * 100)) -le $((daemons[0] * 105)) ] || fail "$name: the daemon grew from ${daemons[0]} to ${daemons[-1]} KiB"
	[ $((worker[-1] * 100)) -le $((worker[0] * 105)) ] || fail "$name: the worker grew from ${worker[0]} to ${worker[-1]} KiB"
}

"$tool" png "$dir/p.png" 1 20000
mount_start
run_jobs "stand-in" "${JOBS:-1000}" "$dir/p.png"
mount_stop
if [ "${REAL_JOBS:-0}" != 0 ]; then
	state=$dir/real
	mount_start -o worker="$TRELLIS_BUILD/trellis",model=tests/golden/e2e,steps=1,threads=1
	run_jobs "the reference model" "${REAL_JOBS:-0}" tests/golden/e2e/input.png
	mount_stop
fi
finish
