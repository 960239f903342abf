#!/bin/bash
# gltf_validator.sh - every GLB in $TRELLIS_BUILD/samples (test_writers leaves them) through the Khronos validator:
# no error, no warning; infos are listed. Installs npm's gltf-validator into $TRELLIS_BUILD/npm.
set -eu
version=2.0.0-dev.3.10
build=${TRELLIS_BUILD:?the build folder}
for tool in node npm; do
	command -v "$tool" >/dev/null || { echo "$tool is not installed"; exit 77; }
done
samples=("$build"/samples/*.glb)
[ -f "${samples[0]}" ] || { echo "no GLB in $build/samples: test_writers has not run"; exit 1; }
modules=$build/npm/node_modules
if [ ! -d "$modules/gltf-validator" ]; then
	log=$(npm install --no-audit --no-fund --prefix "$build/npm" "gltf-validator@$version" 2>&1) || {
		echo "$log"
		echo "npm cannot install gltf-validator (no network?)"
		exit 77
	}
fi
NODE_PATH=$modules node - "${samples[@]}" <<'JS'
const fs = require('fs'), path = require('path'), validator = require('gltf-validator');
(async () => {
	let bad = 0;
	for (const file of process.argv.slice(2)) {
		const report = await validator.validateBytes(new Uint8Array(fs.readFileSync(file)));
		const { numErrors, numWarnings, numInfos, messages } = report.issues;
		console.log(`${path.basename(file)}: ${report.info.totalTriangleCount} triangles, ${numErrors} errors,` +
			` ${numWarnings} warnings, ${numInfos} infos`);
		for (const m of messages)
			console.log(`  ${m.code} ${m.pointer || ''}: ${m.message}`);
		if (numErrors || numWarnings || !report.info.totalTriangleCount)
			bad++;
	}
	if (bad)
		console.log(`${bad} files with errors or warnings`);
	process.exit(bad ? 1 : 0);
})();
JS
