#!/bin/bash
# mount_power.sh - power is lost at a random moment: the state directory is on an ext4 of its own, which is shut down without
# writing anything more. What an fsync had confirmed is there; the tree is whole; a mesh that is there is complete; every
# picture that is left gets its mesh. ROUNDS (3), SEED.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
PATH=$PATH:/usr/sbin:/sbin
disk=$dir/disk image=$dir/image
mkdir "$disk" "$dir/src"
truncate -s 200M "$image"
if ! mkfs.ext4 -q -F "$image" 2>/dev/null || ! mount -o loop "$image" "$disk" 2>/dev/null; then
	echo "an ext4 of its own cannot be mounted here"
	exit 77
fi
trap 'fusermount3 -u -z "$mnt" 2>/dev/null; umount -l "$disk"; cleanup' EXIT
state=$disk/state
seed=$((${SEED:-$(date +%s)} % 32768))
RANDOM=$seed
for i in $(seq 0 9); do "$tool" png "$dir/src/$i.png" $((i + 1)) $((1000 + i * 30000)); done
mount_start
for i in $(seq 0 9); do cp "$dir/src/$i.png" "$mnt/in/whole$i.png"; done
settle 600
for i in $(seq 0 9); do md5sum <"$mnt/out/whole$i.glb" | cut -d ' ' -f 1; done >"$dir/whole" # line N + 1: of picture N
rm "$mnt"/in/whole* "$mnt"/out/whole*
sync -f "$state"
log=$dir/ops
: >"$log"

# As in mount_crash.sh, but an operation counts when an fsync after it has returned.
workload() {
	RANDOM=$1
	local in=$mnt/in name other pick
	cd / || exit
	while :; do
		name=n$((RANDOM % 20)).png other=n$((RANDOM % 20)).png pick=$((RANDOM % 10))
		case $((RANDOM % 6)) in
		0 | 1 | 2)
			echo "try $name" >>"$log"
			dd if="$dir/src/$pick.png" of="$in/$name" bs=64k conv=fsync && echo "put $name $pick" >>"$log" || exit
			;;
		3)
			echo "try $name" >>"$log"
			dd if="$dir/src/$pick.png" of="$in/.$name.tmp" bs=64k conv=fsync && mv "$in/.$name.tmp" "$in/$name" && sync "$in" && echo "put $name $pick" >>"$log" || exit
			;;
		4)
			[ "$name" != "$other" ] && [ -e "$in/$name" ] || continue
			echo "try $name $other" >>"$log"
			mv "$in/$name" "$in/$other" && sync "$in" && echo "move $name $other" >>"$log" || exit
			;;
		5) # nobody waits for this one's fsync
			cp "$dir/src/$pick.png" "$in/loose$((RANDOM % 9)).png" || exit
			;;
		esac
	done 2>/dev/null
}

declare -A want
replay() {
	want=()
	local a b c
	while read -r a b c; do
		case $a in
		try) doubt="$b $c" ;;
		put) want[$b]=$c doubt= ;;
		move)
			[ -n "${want[$b]:-}" ] && want[$c]=${want[$b]}
			unset "want[$b]"
			doubt=
			;;
		esac
	done <"$log"
}

operations=0 empty=0 kept=0 begin=$SECONDS
for round in $(seq "${ROUNDS:-3}"); do
	set -m
	workload $RANDOM &
	writer=$!
	disown
	set +m
	sleep "$((RANDOM % 3)).$((RANDOM % 10))"
	"$tool" power-off "$disk" || fail "no power-off"
	kill -9 $daemon
	kill -9 -- -$writer 2>/dev/null
	while pgrep -g $writer >/dev/null; do sleep 0.01; done
	while kill -0 $daemon 2>/dev/null; do sleep 0.01; done
	umount "$mnt" 2>/dev/null || fusermount3 -u -z "$mnt"
	# A copy, because the kernel keeps the old one as long as anybody has it mounted, in whatever namespace.
	cp --sparse=always "$image" "$dir/image$round" && rm "$image"
	image=$dir/image$round
	umount "$disk" 2>/dev/null || umount -l "$disk"
	mount -o loop "$image" "$disk" || { fail "round $round: the ext4 cannot be mounted again"; break; }
	mount_start
	doubt=
	replay
	operations=$((operations + $(grep -cE '^(put|move)' "$log")))
	for i in $(seq 0 19); do
		name=n$i.png
		if [[ " $doubt " = *" $name "* ]]; then
			cat "$mnt/in/$name" >/dev/null 2>"$dir/cat" || grep -q 'No such file' "$dir/cat" || fail "round $round: $name: $(cat "$dir/cat")"
		elif [ -n "${want[$name]:-}" ]; then
			cmp "$dir/src/${want[$name]}.png" "$mnt/in/$name" || fail "round $round: $name is not picture ${want[$name]}"
		elif [ -e "$mnt/in/$name" ]; then
			fail "round $round: $name is there and should not be"
		fi
	done
	for i in $(seq 0 8); do [ -e "$mnt/in/loose$i.png" ] && [ ! -s "$mnt/in/loose$i.png" ] && empty=$((empty + 1)); done
	settle 600
	for name in "$mnt"/out/*.glb; do
		[ -e "$name" ] || continue
		grep -q "$(md5sum <"$name" | cut -d ' ' -f 1)" "$dir/whole" || fail "round $round: $name ($(stat -c %s "$name") bytes) is not the mesh of any picture"
		kept=$((kept + 1))
	done
	for name in "$mnt"/in/n*.png; do
		[ -s "$name" ] || continue
		case $(getfattr --only-values -n user.trellis.state "$name" 2>/dev/null) in
		done | failed) ;;
		*) fail "round $round: $name has no outcome" ;;
		esac
	done
	rm -f "$mnt"/in/*.png "$mnt"/out/*
	sync "$mnt/in"
	: >"$log"
	[ $failures -lt 5 ] || break
done
echo "seed $seed: $round losses of power in $((SECONDS - begin)) s, $operations confirmed operations verified, $kept meshes whole," \
	"$empty pictures nobody had synced are empty"
finish
