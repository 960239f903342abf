#!/bin/bash
# install.sh - `make install` to a folder of its own; from there, with no options: doctor, a mesh by the command line, a mesh
# through a mount, and the C example built as somebody else's program against the installed library.
set -u
cd "$(dirname "$0")/../.." || exit 1
work=$(mktemp -d)
mount=$work/mount
finish() {
	fusermount3 -u -z "$mount" 2>/dev/null
	flock --wait 10 "$work"/state/trellisfs/*/lock true 2>/dev/null
	rm -rf "$work"
}
trap finish EXIT
export HOME=$work XDG_STATE_HOME=$work/state
unset TRELLIS_MODEL_PATH HF_HUB_CACHE HUGGINGFACE_HUB_CACHE HF_HOME XDG_CACHE_HOME TORCH_HOME
failed=0

fault() {
	echo "$*"
	failed=1
}

make -s --no-print-directory install BUILD="$TRELLIS_BUILD" DESTDIR="$work/stage" PREFIX=/usr/local || exit 1
root=$work/stage/usr/local
PATH=$root/bin:$PATH
mkdir "$mount" "$work/other"

for page in trellis trellisfs; do
	[ -s "$root/share/man/man1/$page.1" ] || fault "no manual page of $page"
	# Every option of --help is in the manual.
	for option in $("$page" --help | grep -oE -- '(^| )--[a-z-]+' | sort -u); do
		grep -qE -- "( -|Cm )${option#--}\b" "$root/share/man/man1/$page.1" ||
			[[ $option =~ ^--(option|name)$ ]] || fault "$page.1 says nothing of $option"
	done
done
for command in $(trellis --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
	grep -q "^\.Ss trellis $command" "$root/share/man/man1/trellis.1" || fault "trellis.1 says nothing of $command"
	for option in $(trellis help "$command" | grep -oE -- '^ *(-., |    )--[a-z-]+' | grep -o -- '--.*' | sort -u); do
		grep -qE -- "-${option#--}\b" "$root/share/man/man1/trellis.1" || fault "trellis.1: $command $option is missing"
	done
done
for option in $(trellisfs --help | sed -n 's/^  \([a-z_]*\)\(=.*\| .*\|$\)/\1/p'); do
	grep -qE "^\.It Cm (.* )?$option\b" "$root/share/man/man1/trellisfs.1" || fault "trellisfs.1 says nothing of $option"
done
if command -v mandoc >/dev/null; then
	mandoc -Tlint -Wwarning "$root"/share/man/man1/*.1 || fault "the manual pages have faults"
fi

# The library, with the place that the package will have in the end put right.
export PKG_CONFIG_PATH=$root/lib/pkgconfig
flags=$(pkg-config --define-variable=prefix="$root" --cflags --libs trellis) || fault "pkg-config does not know trellis"
# shellcheck disable=SC2086
${CC:-cc} "$root/share/doc/trellisfs/examples/generate.c" -o "$work/other/generate" $flags ||
	fault "the C example does not build against the installed library"
"$work/other/generate" tests/golden/e2e/input.png "$work/other/a.stl" tests/golden/e2e >"$work/log" 2>&1 &&
	[ -s "$work/other/a.stl" ] || fault "the C example fails: $(cat "$work/log")"

cd "$work/other" || exit 1
trellis doctor >"$work/log" || fault "doctor: $(cat "$work/log")"
grep -q "^ok    model .*$root/share/trellisfs/mini" "$work/log" || fault "doctor found another model: $(cat "$work/log")"
# The CUDA plugin lies where the installed programs look for it, and is found there: a stand-in computes as one would.
if [ -e "$TRELLIS_BUILD/trellis-cuda.so" ]; then
	cmp -s "$TRELLIS_BUILD/trellis-cuda.so" "$root/lib/trellis/trellis-cuda.so" || fault "the CUDA plugin was not installed"
else
	grep -q 'cuda: the plugin is not installed' "$work/log" || fault "doctor says nothing of CUDA: $(cat "$work/log")"
fi
install -D "$TRELLIS_BUILD/tests/plugins/fake/trellis-cuda.so" "$root/lib/trellis/trellis-cuda.so"
trellis doctor >"$work/log" || fault "doctor with a device: $(cat "$work/log")"
grep -q '^ok    device     cuda:0 Fake, .*computes what the oracle computes' "$work/log" ||
	fault "the installed plugin was not found: $(cat "$work/log")"
rm "$root/lib/trellis/trellis-cuda.so"
pictures=$root/share/doc/trellisfs/examples
trellis generate --steps 2 "$pictures/car.png" -o . >"$work/log" 2>&1 && [ "$(head -c 4 car.glb)" = glTF ] ||
	fault "generate: $(cat "$work/log")"
if (: <>/dev/fuse) 2>/dev/null; then
	if trellisfs -o steps=2 "$mount" 2>"$work/log"; then
		cp "$pictures/car.png" "$mount/in/"
		trellis wait --timeout 600 "$mount/in/car.png" >"$work/log" 2>&1 || fault "wait: $(cat "$work/log" "$mount/status")"
		# The model, its options and the picture are the same, so the mesh is.
		cmp -s "$mount/out/car.glb" car.glb || fault "the mount made another mesh than the command"
		fusermount3 -u "$mount" || fault "the mount cannot be unmounted"
	else
		fault "trellisfs: $(cat "$work/log")"
	fi
else
	echo "without the installed mount: /dev/fuse cannot be used here"
fi
exit $failed
