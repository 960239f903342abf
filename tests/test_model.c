/* test_model.c - opening models: roles, defaults, what is refused, repairs, and where things are found.
 * Works on directories of zeros that it writes (tiny_model.h), with HOME and the caches pointing into its own folder.
 */
#include "loader.h"
#include "model.h"
#include "model_tensors.h"

#include "tiny_model.h"
#include "torch_file.h"

#include <criterion/criterion.h>
#include <ftw.h>
#include <glob.h>
#include <unistd.h>

static char root[64];

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st, (void)type, (void)ftw;
	return remove(path);
}

static void set_up(void)
{
	strcpy(root, "/tmp/test_model.XXXXXX");
	cr_assert(mkdtemp(root));
	setenv("HOME", root, 1);
	for (const char **v = (const char *[]){"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME",
		     "TORCH_HOME", "TRELLIS_MODEL_PATH", NULL};
		*v; v++)
		unsetenv(*v);
}

static void tear_down(void)
{
	nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

TestSuite(model, .init = set_up, .fini = tear_down);

/* root/rest; the last eight results are kept. */
static const char *in_root(const char *rest)
{
	static char paths[8][256];
	static int next;
	char *path = paths[next++ % 8];
	snprintf(path, sizeof paths[0], "%s/%s", root, rest);
	return path;
}

static void make_directories(const char *path)
{
	char part[256];
	for (const char *p = path + 1; *p; p++) {
		if (*p == '/') {
			snprintf(part, sizeof part, "%.*s", (int)(p - path), path);
			mkdir(part, 0700);
		}
	}
	mkdir(path, 0700);
}

/* tiny_pipeline with `from` replaced by `to`. */
static void write_pipeline(const char *dir, const char *from, const char *to)
{
	char text[4096], path[256];
	const char *at = strstr(tiny_pipeline, from);
	cr_assert(at);
	snprintf(text, sizeof text, "%.*s%s%s", (int)(at - tiny_pipeline), tiny_pipeline, to, at + strlen(from));
	snprintf(path, sizeof path, "%s/pipeline.json", dir);
	tiny_write_text(path, text);
}

static void expect_open_fails(const char *path, const char *wanted)
{
	struct error err = {""};
	struct model *m = model_open(path, &err);
	cr_expect(!m, "opened, wanted: %s", wanted);
	cr_expect(strstr(err.text, wanted), "wanted \"%s\", got \"%s\"", wanted, err.text);
	cr_expect(!strchr(err.text, '\n'), "more than one line: %s", err.text);
	model_close(m);
}

/* Whether a file is in the places that are told of; those whose names alone are looked at do not count. */
struct looked_for {
	const char *path, *resolved;
	bool told;
};

static void look_in_place(void *user, const char *place, enum model_place kind)
{
	struct looked_for *f = user;
	char *resolved = realpath(place, NULL);
	size_t n = resolved ? strlen(resolved) : 0;
	if (n && kind != PLACE_NAMES && !strncmp(f->resolved, resolved, n) && strchr("/", f->resolved[n]))
		f->told = true;
	n = strlen(place);
	if (kind == PLACE_LINKED && !strncmp(f->path, place, n) && f->path[n] == '/')
		f->told = true;
	free(resolved);
}

static struct model *open_model(const char *path)
{
	struct error err = {""};
	struct model *m = model_open(path, &err);
	cr_assert(m, "%s", err.text);
	for (int i = 0; i < ROLE_COUNT; i++) {
		struct looked_for f = {.path = m->roles[i] ? safetensors_path(m->roles[i]->tensors) : NULL};
		if (!f.path)
			continue;
		cr_assert(f.resolved = realpath(f.path, NULL));
		model_places(path, look_in_place, &f);
		cr_expect(f.told, "nobody is told that %s is read", f.path);
		free((char *)(uintptr_t)f.resolved);
	}
	return m;
}

Test(model, opens_a_directory)
{
	tiny_write_model(in_root("m"));
	tiny_write_encoder(in_root("m/dinov2"));
	struct model *m = open_model(in_root("m/"));
	cr_expect_str_eq(m->name, "m");
	cr_expect_str_eq(m->note, "");
	for (int i = 0; i < ROLE_COUNT; i++)
		cr_expect(m->roles[i] && !m->absent[i] && m->roles[i]->role == (enum model_role)i, "%s",
			model_role_name((enum model_role)i));
	cr_expect_str_eq(m->roles[ROLE_LATENT_FLOW]->class_name, "ElasticSLatFlowModel");
	cr_expect_str_eq(m->roles[ROLE_LATENT_FLOW]->name, "ckpts/slat_flow");

	const struct sampler_config *s = &m->structure_sampler;
	cr_expect(s->steps == 25 && s->rescale_t == 3 && s->guidance == 5 && s->guided && s->sigma_min == 1e-5);
	cr_expect(s->interval[0] == 0.5 && s->interval[1] == 0.95);
	s = &m->latent_sampler; /* the official defaults */
	cr_expect(s->steps == 50 && s->rescale_t == 1 && s->guidance == 3 && s->guided);
	cr_expect(s->interval[0] == 0 && s->interval[1] == 1);
	cr_expect(m->n_latent_norm == 2 && m->latent_mean[1] == 0.5f && m->latent_std[1] == 2);

	struct error err;
	cr_expect_eq(model_require(m, ROLE_ENCODER, &err), m->roles[ROLE_ENCODER]);
	model_close(m);

	cr_assert_eq(chdir(in_root("m/ckpts")), 0);
	m = open_model("..");
	cr_expect_str_eq(m->name, "m");
	model_close(m);
}

/* Every argument that a description leaves out has the official constructor's default. */
Test(model, arguments_have_the_official_defaults)
{
	struct error err = {""};
	struct checkpoint c = {0};
#define PARSE(json) cr_assert(checkpoint_parse(&c, json, strlen(json), "x.json", &err), "%s", err.text)
	PARSE("{\"name\":\"SparseStructureFlowModel\",\"args\":{\"resolution\":16,\"in_channels\":8,\"model_channels\":"
	      "1024,"
	      "\"cond_channels\":1024,\"out_channels\":8,\"num_blocks\":24}}");
	cr_expect(c.role == ROLE_STRUCTURE_FLOW && c.config.num_heads == 16 && c.config.mlp_ratio == 4);
	cr_expect(c.config.mlp_channels == 4096 && c.config.patch_size == 2 && !c.config.share_mod);
	cr_expect(!c.config.qk_rms_norm && !c.config.qk_rms_norm_cross);
	checkpoint_finish(&c);
	PARSE("{\"name\":\"SLatFlowModel\",\"args\":{\"resolution\":64,\"in_channels\":8,\"model_channels\":1024,"
	      "\"cond_channels\":1024,\"out_channels\":8,\"num_blocks\":24,\"num_heads\":null,\"num_head_channels\":32,"
	      "\"io_block_channels\":null,\"mlp_ratio\":2.6666666666666665}}");
	cr_expect(c.config.num_heads == 32 && c.config.num_io_res_blocks == 2 && c.config.use_skip_connection);
	cr_expect(c.config.n_io_block_channels == 0 && c.config.patch_size == 1,
		"without io blocks the patch is one voxel");
	cr_expect_eq(c.config.mlp_channels, 2730, "int(1024 * ratio) in double");
	checkpoint_finish(&c);
	PARSE("{\"name\":\"SparseStructureDecoder\",\"args\":{\"out_channels\":1,\"latent_channels\":8,"
	      "\"num_res_blocks\":2,\"channels\":[512,128,32],\"norm_type\":\"group\",\"new_thing\":3}}");
	cr_expect(c.config.num_res_blocks_middle == 2 && c.config.n_channels == 3 && c.config.group_norm);
	cr_expect_str_eq(c.note, "x.json: unknown argument \"new_thing\" ignored");
	checkpoint_finish(&c);
	PARSE("{\"name\":\"ElasticSLatMeshDecoder\",\"args\":{\"resolution\":64,\"model_channels\":768,"
	      "\"latent_channels\":8,\"num_blocks\":12,\"representation_config\":{}}}");
	cr_expect(!c.config.full_attention && c.config.window_size == 8 && !c.config.use_color);
	cr_expect(c.config.out_channels == 53 && c.config.num_heads == 12);
	checkpoint_finish(&c);
	const char *encoder = "{\"model_type\":\"dinov2_with_registers\"}";
	cr_assert(checkpoint_parse_encoder(&c, encoder, strlen(encoder), "c", &err), "%s", err.text);
	cr_expect(c.config.model_channels == 768 && c.config.num_blocks == 12 && c.config.num_heads == 12);
	cr_expect(c.config.image_size == 224 && c.config.patch_size == 16 && c.config.num_registers == 4);
	cr_expect(c.config.mlp_channels == 3072 && !c.config.swiglu && c.config.layer_norm_eps == 1e-6);
	checkpoint_finish(&c);
#undef PARSE
}

/* The description `json` with `from` replaced by `to` is refused with a message that contains `wanted`. */
static void expect_refused(const char *json, const char *from, const char *to, const char *wanted)
{
	struct error err = {""};
	struct checkpoint c = {0};
	char text[2048];
	const char *at = strstr(json, from);
	cr_assert(at, "no %s", from);
	snprintf(text, sizeof text, "%.*s%s%s", (int)(at - json), json, to, at + strlen(from));
	bool ok = strstr(json, "model_type") ? checkpoint_parse_encoder(&c, text, strlen(text), "x.json", &err)
					     : checkpoint_parse(&c, text, strlen(text), "x.json", &err);
	cr_expect(!ok, "accepted: %s", to);
	cr_expect(strstr(err.text, wanted) && strstr(err.text, "x.json") == err.text, "wanted \"%s\", got \"%s\"",
		wanted, err.text);
	checkpoint_finish(&c);
}

Test(model, refuses_descriptions_by_name)
{
	expect_refused(
		tiny_ss_flow, "\"qk_rms_norm\": true", "\"pe_mode\": \"rope\"", "pe_mode \"rope\" is not supported");
	expect_refused(tiny_ss_flow, "\"num_heads\": 2", "\"num_heads\": 5", "cannot be split into 5 heads");
	expect_refused(tiny_ss_flow, "\"resolution\": 4, ", "", "args lacks \"resolution\"");
	expect_refused(tiny_ss_flow, "\"resolution\": 4", "\"resolution\": 5", "not a multiple of patch_size");
	expect_refused(
		tiny_ss_flow, "\"resolution\": 4", "\"resolution\": 4.0", "args.resolution is not a whole number");
	expect_refused(
		tiny_ss_flow, "\"resolution\": 4", "\"resolution\": 1000000", "args.resolution is 1e+06, wanted");
	expect_refused(tiny_ss_flow, "\"resolution\": 4", "\"resolution\": 4, \"resolution\": 4", "duplicate");
	expect_refused(
		tiny_ss_flow, "\"qk_rms_norm\": true", "\"qk_rms_norm\": 1", "args.qk_rms_norm is not true or false");
	expect_refused(
		tiny_ss_flow, "SparseStructureFlowModel", "SparseStructureEncoder", "class \"SparseStructureEncoder\"");
	expect_refused(tiny_ss_flow, "\"name\"", "\"nome\"", "lacks \"name\"");
	expect_refused(tiny_ss_flow, "{\"resolution\"", "{[", "line 1");
	expect_refused(
		tiny_slat_flow, "\"num_heads\": 1", "\"share_mod\": true", "share_mod together with io_block_channels");
	expect_refused(tiny_slat_flow, "\"num_heads\": 1", "\"qk_rms_norm_cross\": true", "qk_rms_norm_cross");
	expect_refused(tiny_slat_flow, "\"num_heads\": 1", "\"patch_size\": 4", "patch_size 4 does not go with 1");
	expect_refused(tiny_slat_flow, "[8]", "[]", "args.io_block_channels is not a list of 1 to 8");
	expect_refused(tiny_slat_flow, "[8]", "[-8]", "args.io_block_channels[0]");
	expect_refused(tiny_ss_dec, "[8, 4]", "[8, 4], \"norm_type\": \"batch\"", "unknown norm_type \"batch\"");
	expect_refused(tiny_ss_dec, "[8, 4]", "[8, 4], \"norm_type\": \"group\"", "multiple of 32");
	expect_refused(tiny_slat_dec_mesh, "\"mlp_ratio\": 0.25", "\"attn_mode\": \"shift_window\"",
		"attn_mode \"shift_window\" is not supported");
	expect_refused(tiny_slat_dec_mesh, "256", "128", "not a multiple of 256");
	expect_refused(tiny_slat_dec_gs, "softplus", "relu", "unknown scaling_activation \"relu\"");
	expect_refused(tiny_slat_dec_gs, "\"_xyz\": 1, ", "", "representation_config.lr lacks \"_xyz\"");
	expect_refused(tiny_encoder, "dinov2_with_registers", "dinov2", "wanted \"dinov2_with_registers\"");
	expect_refused(tiny_encoder, "\"mlp_ratio\": 1", "\"hidden_act\": \"silu\"", "hidden_act \"silu\"");
	expect_refused(tiny_encoder, "\"mlp_ratio\": 1", "\"qkv_bias\": false", "qkv_bias false is not supported");
	/* Whatever a name holds, the error is one line and leaves a terminal alone. */
	expect_refused(tiny_ss_dec, "SparseStructureDecoder", "T\\n\\u001b[31m\\u007f\\u0085",
		"class \"T??[31m???\" has no part");
}

Test(model, refuses_pipelines_by_name)
{
	const char *m = in_root("m");
	tiny_write_model(m);
	write_pipeline(m, "TrellisImageTo3DPipeline", "Trellis2ImageTo3DPipeline");
	expect_open_fails(m, "Trellis2ImageTo3DPipeline is a TRELLIS.2 model");
	write_pipeline(m, "TrellisImageTo3DPipeline", "TrellisTextTo3DPipeline");
	expect_open_fails(m, "makes meshes from text");
	write_pipeline(m, "TrellisImageTo3DPipeline", "Other");
	expect_open_fails(m, "unknown pipeline \"Other\"");
	write_pipeline(m, "FlowEulerCfgSampler", "FlowHeunSampler");
	expect_open_fails(m, "unknown sampler \"FlowHeunSampler\" in slat_sampler");
	write_pipeline(m, "\"steps\": 25", "\"steps\": 0");
	expect_open_fails(m, "sparse_structure_sampler.steps is 0");
	write_pipeline(m, "[0.5, 0.95]", "[0.95, 0.5]");
	expect_open_fails(m, "sparse_structure_sampler.cfg_interval is 0.95 to 0.5, wanted a part of 0 to 1");
	write_pipeline(m, "\"cfg_strength\"", "\"guidance_strength\"");
	expect_open_fails(m, "sparse_structure_sampler has an unknown parameter \"guidance_strength\"");
	write_pipeline(m, "\"std\": [1, 2]", "\"std\": [1, 4e38]");
	expect_open_fails(m, "slat_normalization.std[1] is 4e+38, more than f32 holds");
	write_pipeline(m, "\"std\": [1, 2]", "\"std\": [1]");
	expect_open_fails(m, "2 means and 1 deviations");
	write_pipeline(m, "\"ckpts/ss_flow\"", "7");
	expect_open_fails(m, "models.sparse_structure_flow_model is not a string");
	write_pipeline(m, "\"ckpts/ss_flow\"", "\"ckpts/ss\\u001b[31mflow\"");
	expect_open_fails(m, "models.sparse_structure_flow_model is not a string of printable characters");
	write_pipeline(m, "\"slat_flow_model\": \"ckpts/slat_flow\", ", "");
	expect_open_fails(m, "names no slat_flow_model");
	write_pipeline(m, "\"mean\": [0, 0.5], \"std\": [1, 2]", "\"mean\": [0], \"std\": [1]");
	expect_open_fails(m, "slat_normalization's length is 1");
}

Test(model, samplers_guide_as_their_class_does)
{
	const char *m = in_root("m"), *params = "\"params\": {}},\"slat_normalization\"";
	tiny_write_model(m);
	write_pipeline(m, "FlowEulerGuidanceIntervalSampler", "FlowEulerSampler");
	struct model *opened = open_model(m);
	cr_expect(!opened->structure_sampler.guided && opened->structure_sampler.steps == 25);
	model_close(opened);
	/* Only the interval sampler has an interval. */
	write_pipeline(
		m, params, "\"params\": {\"cfg_strength\": 2, \"cfg_interval\": [0.5, 0.6]}},\"slat_normalization\"");
	opened = open_model(m);
	const struct sampler_config *s = &opened->latent_sampler;
	cr_expect(s->guided && s->guidance == 2 && s->interval[0] == 0 && s->interval[1] == 1);
	model_close(opened);
	write_pipeline(m, "[0.5, 0.95]", "[0.5]");
	expect_open_fails(m, "sparse_structure_sampler.cfg_interval is not a pair of numbers");
}

Test(model, says_what_a_directory_lacks)
{
	mkdir(in_root("empty"), 0700);
	expect_open_fails(in_root("empty"), "not a model: it has no pipeline.json");
	mkdir(in_root("half"), 0700);
	mkdir(in_root("half/ckpts"), 0700);
	expect_open_fails(in_root("half"), "there is ckpts/");
	tiny_write_encoder(in_root("encoder"));
	expect_open_fails(in_root("encoder"), "an encoder or another single network");
	expect_open_fails(in_root("nowhere"), "no such directory");
	expect_open_fails("org/name", "org/name: not in the Hugging Face cache");
	setenv("TRELLIS_MODEL_PATH", in_root("half"), 1);
	expect_open_fails(NULL, "half: not a model");
}

Test(model, names_the_file_and_tensor_at_fault)
{
	const char *m = in_root("m"), *ckpts = in_root("m/ckpts"), *file = in_root("m/ckpts/ss_dec.safetensors");
	struct stat st;
	tiny_write_model(m);
	tiny_write_checkpoint(
		ckpts, "ss_dec", tiny_ss_dec, &(struct tiny_change){"blocks.0.conv1.weight", TINY_DROP, NULL});
	expect_open_fails(m, "ss_dec.safetensors: tensor blocks.0.conv1.weight is missing");
	tiny_write_checkpoint(
		ckpts, "ss_dec", tiny_ss_dec, &(struct tiny_change){"blocks.0.conv1.bias", TINY_RESHAPE, NULL});
	expect_open_fails(m, "ss_dec.safetensors: tensor blocks.0.conv1.bias has shape [9], wanted [8]");
	tiny_write_checkpoint(
		ckpts, "ss_dec", tiny_ss_dec, &(struct tiny_change){"blocks.0.conv1.bias", TINY_INTEGER, NULL});
	expect_open_fails(m, "tensor blocks.0.conv1.bias is I32, wanted F32, F16 or BF16");
	tiny_write_checkpoint(ckpts, "ss_dec", tiny_ss_dec, &(struct tiny_change){NULL, TINY_DROP, "blocks.9.what"});
	expect_open_fails(m, "tensor blocks.9.what is not one of a SparseStructureDecoder");
	tiny_write_checkpoint(ckpts, "ss_dec", tiny_ss_dec, NULL);
	cr_assert_eq(stat(file, &st), 0);
	cr_assert_eq(truncate(file, st.st_size - 4), 0);
	expect_open_fails(m, "ss_dec.safetensors: truncated");
	unlink(file);
	expect_open_fails(m, "ckpts/ss_dec.safetensors: No such file");
	unlink(in_root("m/ckpts/ss_dec.json"));
	expect_open_fails(m, "ckpts/ss_dec.json: No such file");
}

static void count_fault(void *user, enum model_role role, const char *what)
{
	(void)role;
	cr_expect(*what && !strchr(what, '\n'));
	++*(int *)user;
}

Test(model, reports_every_fault)
{
	struct error err;
	int faults = 0;
	const char *ckpts = in_root("m/ckpts");
	tiny_write_model(in_root("m"));
	tiny_write_checkpoint(
		ckpts, "ss_dec", tiny_ss_dec, &(struct tiny_change){"out_layer.0.bias", TINY_DROP, "extra"});
	unlink(in_root("m/ckpts/slat_flow.json"));
	struct model *m = model_open_reporting(in_root("m"), count_fault, &faults, &err);
	cr_assert(m, "%s", err.text);
	cr_expect_eq(faults, 3, "%d", faults);
	cr_expect(m->roles[ROLE_STRUCTURE_DECODER] && !m->roles[ROLE_LATENT_FLOW] && m->roles[ROLE_MESH_DECODER]);
	model_close(m);
}

Test(model, roles_must_fit_together)
{
	tiny_write_model(in_root("m"));
	char text[1024];
	strcpy(text, tiny_slat_dec_mesh);
	*strchr(strstr(text, "\"resolution\""), '8') = '4';
	tiny_write_checkpoint(in_root("m/ckpts"), "slat_dec_mesh", text, NULL);
	expect_open_fails(in_root("m"), "ckpts/slat_dec_mesh: resolution is 4, but the latent flow's is 8");
}

Test(model, optional_roles_may_be_absent)
{
	struct error err = {""};
	tiny_write_model(in_root("m"));
	unlink(in_root("m/ckpts/slat_dec_gs.safetensors"));
	struct model *m = open_model(in_root("m"));
	cr_expect(!m->roles[ROLE_GAUSSIAN_DECODER]);
	cr_expect(!model_require(m, ROLE_GAUSSIAN_DECODER, &err));
	cr_expect(strstr(err.text, "slat_dec_gs.safetensors"), "%s", err.text);
	cr_expect(!model_require(m, ROLE_ENCODER, &err));
	cr_expect(strstr(err.text, "dinov2_vitl14_reg") && strstr(err.text, "facebook/dinov2-with-registers-large") &&
			  strstr(err.text, "dinov2_vitl14_reg4_pretrain.pth"),
		"%s", err.text);
	model_close(m);
}

Test(model, repairs_a_role_of_the_wrong_class)
{
	tiny_write_model(in_root("m"));
	write_pipeline(in_root("m"), "\"ckpts/slat_dec_mesh\"", "\"ckpts/slat_dec_gs\"");
	struct model *m = open_model(in_root("m"));
	cr_expect_str_eq(m->roles[ROLE_MESH_DECODER]->class_name, "SLatMeshDecoder");
	cr_expect_str_eq(m->note,
		"pipeline.json points slat_decoder_mesh at ckpts/slat_dec_gs, which is of another class; "
		"using slat_dec_mesh");
	model_close(m);

	/* Several: the name decides. A description without tensors is no candidate. */
	tiny_write_checkpoint(in_root("m/ckpts"), "zz_old", tiny_slat_dec_mesh, NULL);
	tiny_write_text(in_root("m/ckpts/slat_dec_gs_mesh.json"), tiny_slat_dec_mesh);
	m = open_model(in_root("m"));
	cr_expect(strstr(m->note, "using slat_dec_mesh"), "%s", m->note);
	model_close(m);

	unlink(in_root("m/ckpts/slat_dec_mesh.json"));
	tiny_write_checkpoint(in_root("m/ckpts"), "zz_new", tiny_slat_dec_mesh, NULL);
	expect_open_fails(in_root("m"), "has several of the right one");
	unlink(in_root("m/ckpts/zz_old.json"));
	unlink(in_root("m/ckpts/zz_new.json"));
	expect_open_fails(in_root("m"), "has none of the right one");

	/* A role that nothing needs is then absent, and said to be. */
	tiny_write_model(in_root("m"));
	write_pipeline(in_root("m"), "\"ckpts/slat_dec_gs\"", "\"ckpts/ss_dec\"");
	unlink(in_root("m/ckpts/slat_dec_gs.json"));
	m = open_model(in_root("m"));
	cr_expect(
		!m->roles[ROLE_GAUSSIAN_DECODER] && strstr(m->absent[ROLE_GAUSSIAN_DECODER], "none of the right one"));
	cr_expect(strstr(m->note, "slat_decoder_gs points at a checkpoint of another class"), "%s", m->note);
	model_close(m);
}

/* models--org--name with refs/main and a snapshot whose files are links into blobs/, as the hub client lays it out. */
static void make_cached(const char *cache, const char *repository, const char *source)
{
	char path[512], target[512];
	make_directories(cache);
	snprintf(path, sizeof path, "%s/%s/refs", cache, repository);
	make_directories(path);
	strcat(path, "/main");
	tiny_write_text(path, "0123abc");
	snprintf(path, sizeof path, "%s/%s/snapshots", cache, repository);
	make_directories(path);
	strcat(path, "/0123abc");
	snprintf(target, sizeof target, "%s/%s/blobs", cache, repository);
	cr_assert_eq(rename(source, target), 0);
	cr_assert_eq(symlink("../blobs", path), 0);
}

Test(model, finds_hub_ids_in_the_cache)
{
	tiny_write_model(in_root("m"));
	make_cached(in_root(".cache/huggingface/hub"), "models--microsoft--TRELLIS-image-large", in_root("m"));
	struct model *m = open_model("microsoft/TRELLIS-image-large");
	cr_expect_str_eq(m->name, "microsoft/TRELLIS-image-large");
	model_close(m);
	m = open_model(in_root(".cache/huggingface/hub/models--microsoft--TRELLIS-image-large"));
	model_close(m);

	/* Each variable in the order of precedence, the last set first in line. */
	setenv("XDG_CACHE_HOME", in_root(".cache"), 1);
	model_close(open_model("microsoft/TRELLIS-image-large"));
	setenv("XDG_CACHE_HOME", in_root("elsewhere"), 1);
	expect_open_fails("microsoft/TRELLIS-image-large", "elsewhere/huggingface/hub");
	setenv("HF_HOME", in_root(".cache/huggingface"), 1);
	model_close(open_model("microsoft/TRELLIS-image-large"));
	setenv("HF_HOME", in_root("elsewhere"), 1);
	setenv("HF_HUB_CACHE", in_root(".cache/huggingface/hub"), 1);
	setenv("TRELLIS_MODEL_PATH", "microsoft/TRELLIS-image-large", 1);
	model_close(open_model(NULL));

	tiny_write_text(
		in_root(".cache/huggingface/hub/models--microsoft--TRELLIS-image-large/refs/main"), "../../../..");
	expect_open_fails("microsoft/TRELLIS-image-large", "does not name a revision");
	expect_open_fails("../evil", "no such directory");
}

Test(model, finds_references_to_other_repositories)
{
	tiny_write_model(in_root("other"));
	make_cached(in_root(".cache/huggingface/hub"), "models--org--other", in_root("other"));
	tiny_write_model(in_root("m"));
	unlink(in_root("m/ckpts/ss_dec.json"));
	write_pipeline(in_root("m"), "\"ckpts/ss_dec\"", "\"org/other/ckpts/ss_dec\"");
	struct model *m = open_model(in_root("m"));
	cr_expect_str_eq(m->roles[ROLE_STRUCTURE_DECODER]->name, "org/other/ckpts/ss_dec");
	cr_expect(strstr(safetensors_path(m->roles[ROLE_STRUCTURE_DECODER]->tensors), "models--org--other"));
	model_close(m);
	write_pipeline(in_root("m"), "\"ckpts/ss_dec\"", "\"org/third/ckpts/ss_dec\"");
	expect_open_fails(in_root("m"), "m/org/third/ckpts/ss_dec.json: No such file");
}

static void refuse_place(void *user, const char *place, enum model_place kind)
{
	const char *base = strrchr(place, '/') + 1;
	bool inside = !strncmp(place, user, strlen(user)) && !strstr(place, "..");
	cr_expect(inside || strstr(base, ".json") || strstr(base, ".safetensors") || kind == PLACE_NAMES ||
			  strstr(place, "/.cache/"),
		"%s", place);
}

/* What a pipeline names is its author's choice: a directory of the author's choice is not told of. */
Test(model, a_pipeline_leads_to_files_of_networks_only)
{
	tiny_write_model(in_root("m"));
	write_pipeline(in_root("m"), "\"ckpts/ss_dec\"", "\"/etc/passwd\"");
	model_places(in_root("m"), refuse_place, (void *)(uintptr_t)in_root("m"));
	write_pipeline(in_root("m"), "\"ckpts/ss_dec\"", "\"../../../../etc/passwd\"");
	model_places(in_root("m"), refuse_place, (void *)(uintptr_t)in_root("m"));
	write_pipeline(in_root("m"), "dinov2_vitl14_reg", "../../../etc"); /* as an encoder */
	model_places(in_root("m"), refuse_place, (void *)(uintptr_t)in_root("m"));
}

static void expect_encoder(const char *wanted)
{
	struct model *m = open_model(in_root("m"));
	cr_assert(m->roles[ROLE_ENCODER], "%s", m->absent[ROLE_ENCODER]);
	const char *path = safetensors_path(m->roles[ROLE_ENCODER]->tensors);
	cr_expect(strstr(path, wanted), "%s, wanted %s", path, wanted);
	model_close(m);
}

/* dinov2_a as torch.hub would have left it: the tensors of the tiny encoder under torch.hub's names. */
static void write_torch_encoder(const char *path)
{
	struct error err = {""};
	struct checkpoint c = {0};
	const char *file = in_root("hub.safetensors");
	cr_assert(checkpoint_parse_encoder(&c, tiny_encoder, strlen(tiny_encoder), "c", &err), "%s", err.text);
	c.hub_names = true;
	tiny_write_tensors(file, &c, NULL);
	checkpoint_finish(&c);
	struct safetensors *f = safetensors_open(file, &err);
	cr_assert(f, "%s", err.text);
	struct torch_file *z = torch_file_create(f);
	FILE *out = fopen(path, "w");
	cr_assert(out && fwrite(z->bytes, 1, z->size, out) == z->size);
	fclose(out);
	free(z);
	safetensors_close(f);
}

Test(model, finds_the_encoder_nearest_first)
{
	tiny_write_model(in_root("m"));
	make_directories(in_root(".cache/torch/hub/checkpoints"));
	write_torch_encoder(in_root(".cache/torch/hub/checkpoints/dinov2_vitl14_reg4_pretrain.pth"));
	struct model *m = open_model(in_root("m"));
	const struct checkpoint *c = m->roles[ROLE_ENCODER];
	cr_assert(c, "%s", m->absent[ROLE_ENCODER]);
	cr_expect(c->hub_names && c->config.model_channels == 64 && c->config.num_blocks == 1 &&
		  c->config.num_heads == 1);
	cr_expect(c->config.image_size == 28 && c->config.patch_size == 14 && c->config.num_registers == 4);
	cr_expect(c->config.mlp_channels == 64 && c->config.layer_norm_eps == 1e-6);
	model_close(m);

	tiny_write_encoder(in_root("e"));
	make_cached(in_root(".cache/huggingface/hub"), "models--facebook--dinov2-with-registers-large", in_root("e"));
	expect_encoder("models--facebook--dinov2-with-registers-large");
	/* A directory without the weights is passed over. */
	mkdir(in_root("a"), 0700);
	tiny_write_text(in_root("a/config.json"), tiny_encoder);
	tiny_write_encoder(in_root("beside"));
	expect_encoder("/beside/model.safetensors");
	tiny_write_encoder(in_root("dinov2-with-registers-large"));
	expect_encoder("/dinov2-with-registers-large/");
	tiny_write_encoder(in_root("m/image_encoder"));
	expect_encoder("/m/image_encoder/");
	tiny_write_encoder(in_root("m/dinov2_vitl14_reg"));
	expect_encoder("/m/dinov2_vitl14_reg/");
	write_pipeline(in_root("m"), "dinov2_vitl14_reg", "image_encoder");
	expect_encoder("/m/image_encoder/");
	write_pipeline(in_root("m"), "dinov2_vitl14_reg", "facebook/dinov2-with-registers-large");
	expect_encoder("models--facebook--dinov2-with-registers-large");
}

static void tell_fault(void *user, const struct checkpoint *c, const char *what)
{
	(void)c, (void)user;
	cr_expect(false, "%s", what);
}

/* The lists of names and shapes are right for every checkpoint that the official code wrote. */
Test(model, golden_checkpoints_have_the_listed_tensors)
{
	glob_t files = {0};
	struct error err = {""};
	int n = 0;
	glob("tests/golden/modules/ckpts/*.json", 0, NULL, &files);
	glob("tests/golden/e2e/ckpts/*.json", GLOB_APPEND, NULL, &files);
	glob("tests/golden/dinov2_*/config.json", GLOB_APPEND, NULL, &files);
	glob("tests/golden/e2e/dinov2/config.json", GLOB_APPEND, NULL, &files);
	for (size_t i = 0; i < files.gl_pathc; i++) {
		struct checkpoint c = {0};
		char *path = files.gl_pathv[i];
		bool encoder = strstr(path, "config.json") != NULL;
		*(encoder ? strrchr(path, '/') : strrchr(path, '.')) = '\0';
		bool ok = encoder ? checkpoint_open_encoder(&c, path, &err) : checkpoint_open(&c, path, &err);
		cr_assert(ok, "%s", err.text);
		model_tensors_check(&c, tell_fault, NULL);
		n++;
		checkpoint_finish(&c);
	}
	globfree(&files);
	cr_assert_gt(n, 10, "only %d golden checkpoints", n);
}

Test(model, golden_torch_names_are_the_listed_ones)
{
	struct error err = {""};
	struct checkpoint c = {0};
	cr_assert(checkpoint_open_encoder(&c, "tests/golden/dinov2_a", &err), "%s", err.text);
	safetensors_close(c.tensors);
	c.tensors = safetensors_open("tests/golden/dinov2_a/hub.safetensors", &err);
	cr_assert(c.tensors, "%s", err.text);
	c.hub_names = true;
	model_tensors_check(&c, tell_fault, NULL);
	checkpoint_finish(&c);
}
