#!/bin/bash
# mount_guard.sh - no way in: what other users, links, a tampered state directory and greed may not do. Needs root for most.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
[ "$(id -u)" = 0 ] && command -v setpriv >/dev/null || { echo "two users need root and setpriv"; exit 77; }
chmod 755 "$dir"
in=$mnt/in out=$mnt/out
no() { "$@" 2>/dev/null && fail "should have been refused: $*"; }
as() { setpriv --reuid="$1" --regid="$1" --clear-groups "${@:2}"; }
# refused PATTERN OPTIONS - trellisfs does not start and says why
refused() {
	local text
	text=$(timeout 20 "$TRELLIS_BUILD/trellisfs" -o worker="$TRELLIS_BUILD/tests/fake_worker,$2" "$mnt" 2>&1) && fail "started with $2"
	[[ $text =~ $1 ]] || fail "$2: '$text'"
}

FAKE_WORKER="slow=30" mount_start -o allow_other
options=$(grep " $mnt " /proc/mounts)
for option in default_permissions allow_other nosuid nodev; do
	[[ $options =~ $option ]] || fail "mounted without $option: $options"
done

# Two users who are not root: each sees what modes allow and changes nothing of the other's.
"$tool" png "$dir/p.png" 1 1000
chmod 644 "$dir/p.png"
as 1001 cp "$dir/p.png" "$in/a.png" && as 1001 mkdir "$in/priv" && as 1001 chmod 700 "$in/priv" && as 1001 cp "$dir/p.png" "$in/priv/x.png" || fail "a user cannot write"
wait_for "$out/a.glb" && wait_for "$out/priv/x.glb"
as 1002 cmp "$dir/p.png" "$in/a.png" || fail "a readable file cannot be read"
as 1001 chmod 600 "$in/a.png"
no as 1002 cat "$in/a.png"
no as 1002 sh -c "echo x >'$in/a.png'"
no as 1002 sh -c "echo x >>'$in/a.png'"
no as 1002 truncate -s 0 "$in/a.png"
no as 1002 rm -f "$in/a.png"
no as 1002 mv "$in/a.png" "$in/b.png"
as 1002 cp "$dir/p.png" "$in/own.png"
no as 1002 mv -f "$in/own.png" "$in/a.png"
no as 1002 chmod 666 "$in/a.png"
no as 1002 chown 1002 "$in/a.png"
no as 1002 setfattr -n user.trellis.submit -v 1 "$in/a.png"
no as 1002 setfattr -n user.x -v 1 "$in/a.png"
no as 1002 ls "$in/priv"
no as 1002 cat "$in/priv/x.png"
no as 1002 ls "$out/priv"
no as 1002 cat "$out/priv/x.glb"
as 1001 cat "$out/priv/x.glb" >/dev/null && as 1001 rm "$out/priv/x.preview.png" || fail "the owner of a private folder has not its results"
[ "$(stat -c '%u %a' "$out/priv")" = "1001 700" ] || fail "out/priv is $(stat -c '%u %a' "$out/priv")"
as 1001 mkdir -m 777 "$in/shared" && as 1002 cp "$dir/p.png" "$in/shared/y.png" && wait_for "$out/shared/y.glb"
[ "$(stat -c '%u %a' "$out/shared")" = "1001 1777" ] || fail "out/shared is $(stat -c '%u %a' "$out/shared")"
no as 1001 sh -c "echo x >'$out/shared/y.glb'"
no as 1003 rm -f "$out/shared/y.glb"
as 1002 rm "$out/shared/y.glb" || fail "the owner of a result cannot remove it"
no as 1002 rm -f "$out/a.glb"
no as 1002 mv "$out/a.glb" "$out/stolen.glb"
no as 1001 touch "$out/new.glb"
no as 1001 mkdir "$out/new"
no touch "$out/new.glb"
no as 1001 sh -c "echo 'seed = 1' >'$mnt/config'"
[ "$(stat -c '%u %a' "$in/a.png")" = "1001 600" ] && cmp -s "$dir/p.png" "$in/a.png" || fail "another user changed something"

wait_for "$out/own.glb"

# Users take turns: one picture of the second is not behind twelve of the first.
watch_out "$dir/events"
for i in $(seq 12); do "$tool" png "$dir/f$i.png" $((i + 100)) 1000 && chmod 644 "$dir/f$i.png" && as 1001 cp "$dir/f$i.png" "$in/"; done
"$tool" png "$dir/late.png" 200 1000 && chmod 644 "$dir/late.png" && as 1002 cp "$dir/late.png" "$in/late.png"
wait_for "$out/late.glb" 300
place=$(grep -E '^(CLOSE_WRITE|MOVED_TO) .*glb$' "$dir/events" | grep -n 'late.glb' | cut -d : -f 1)
settle 300
[ "$(count "$dir/events" '^(CLOSE_WRITE|MOVED_TO) .*glb$')" = 13 ] && [ "${place:-99}" -le 8 ] || fail "the second user's picture was number ${place:-?} of $(count "$dir/events" '^(CLOSE_WRITE|MOVED_TO) .*glb$')"

# Nor is it behind thousands that need no worker: neither when it needs none itself, nor as a job.
"$tool" png "$dir/same.png" 300 1000 && chmod 644 "$dir/same.png" && as 1001 cp "$dir/same.png" "$in/same.png"
wait_for "$out/same.glb"
as 1001 mkdir "$in/thousands"
# shellcheck disable=SC2016 # the inner shell's
as 1001 bash -c 'cd "$1/thousands" && tee {1..6000}.png <"$2" >/dev/null' - "$in" "$dir/same.png"
"$tool" png "$dir/new.png" 301 1000 && chmod 644 "$dir/new.png"
as 1002 cp "$dir/same.png" "$in/equal.png" && as 1002 cp "$dir/new.png" "$in/new.png"
state_of() { getfattr --only-values -n user.trellis.state "$in/$1.png" 2>/dev/null; }
for _ in $(seq 600); do [ "$(state_of new)" = settling ] && sleep 0.1 || break; done
left=$((6000 - $(find "$out/thousands" -name '*.glb' | wc -l)))
for name in equal new; do
	wait_for "$out/$name.glb" 600
	rest=$((6000 - $(find "$out/thousands" -name '*.glb' | wc -l)))
	if [ "$left" -ge 2000 ]; then
		[ $rest -gt 0 ] || fail "$name.png was published behind 6,000 of another user"
	else
		echo "without a look at who is published first: only $left waited"
	fi
done
settle 600
[ "$(find "$out/thousands" -name '*.glb' | wc -l)" = 6000 ] || fail "not all of 6,000 were published"

# A link is never followed by the daemon, whatever is behind it.
"$tool" png "$dir/secret.png" 9 1000 && chmod 600 "$dir/secret.png"
as 1001 ln -s "$dir/secret.png" "$in/link.png"
as 1001 ln -s "$dir" "$in/folder"
sleep 1.5
[ ! -e "$out/link.glb" ] && [ ! -e "$out/link.error.txt" ] && [ ! -e "$out/folder" ] || fail "a link was followed"
no ln -s /etc/passwd "$out/link"

# Extended attributes: 64 KB a file in all, no access lists that nobody would enforce, nothing of the system's.
big=$(head -c 30000 /dev/zero | tr '\0' x)
setfattr -n user.a -v "$big" "$in/own.png" && setfattr -n user.b -v "$big" "$in/own.png" || fail "60 KB of attributes"
no setfattr -n user.c -v "$big" "$in/own.png"
no setfattr -n security.capability -v 0sAQAAAgAAAAAAAAAAAAAAAAAAAAA= "$in/own.png"
no setfattr -n trusted.x -v 1 "$in/own.png"
no setfattr -n system.posix_acl_access -v 0sAgAAAAEABgD/////BAAEAP////8gAAQA///// "$in/own.png"
no setfattr -n user.trellis.outputs -v out/x.glb "$in/own.png"
no setfattr -n "user.$(printf 'n%.0s' $(seq 260))" -v 1 "$in/own.png"
mount_stop

# The state directory: 0700 whatever it was, ours, and no link in it is followed.
as 1001 ls "$state" 2>/dev/null && fail "another user can look into the state directory"
chmod 755 "$state"
content=$(grep -lrF IHDR "$state/contents" | head -n 1)
mount_start
[ "$(stat -c %a "$state")" = 700 ] || fail "the state directory stays $(stat -c %a "$state")"
mount_stop
mv "$content" "$dir/kept" && ln -s /etc/passwd "$content"
mount_start
grep -r 'root:' "$in" >/dev/null 2>&1 && fail "a link in the state directory was followed"
mount_stop
rm "$content" && mv "$dir/kept" "$content"
for name in lock journal; do
	mv "$state/$name" "$dir/$name" && ln -s "$dir/$name" "$state/$name"
	refused "$name: Too many levels" "state=$state"
	rm "$state/$name" && mv "$dir/$name" "$state/$name"
done
mv "$state/contents" "$dir/contents" && ln -s "$dir/contents" "$state/contents"
refused 'contents' "state=$state"
rm "$state/contents" && mv "$dir/contents" "$state/contents"
chown 1001 "$state"
refused 'belongs to user 1001' "state=$state"
chown 0 "$state"
refused 'inside the mountpoint' "state=$mnt/state"
mkdir "$mnt/model" && echo '{}' >"$mnt/model/pipeline.json"
refused 'not empty' "state=$state,model=$mnt/model"
rm -r "$mnt/model"

# Greed: sizes count however they come about, also holes, and what is deleted counts no more.
mount_start -o max_bytes=300K
rm -rf "${in:?}"/*
rm -rf "${out:?}"/*
no truncate -s 400000 "$in/hole"
no fallocate -l 400000 "$in/space"
no dd if=/dev/zero of="$in/far" bs=1 count=1 seek=400000 status=none
rm -f "$in"/{hole,space,far}
exec 8>"$in/open"
head -c 200000 /dev/zero >&8
rm "$in/open"
no dd if=/dev/zero of="$in/more" bs=200000 count=1 status=none
exec 8>&-
sleep 0.3
dd if=/dev/zero of="$in/more" bs=200000 count=1 status=none || fail "a deleted and closed file still counts"
mount_stop
finish
