/* generate.c - a picture becomes a mesh: the whole of the engine's interface in one page.
 *
 *   make build/examples/generate && build/examples/generate examples/duck.png duck.glb
 *   cc generate.c -o generate $(pkg-config --cflags --libs trellis)          (after make install) */
#include <trellis.h>

/* Called between operations, from this thread; returning false would cancel the job. */
static bool show_progress(const struct trellis_progress *progress, void *user)
{
	enum trellis_stage *last = user;
	if (progress->stage != *last)
		fprintf(stderr, "%3.0f %%  %s\n", 100 * progress->fraction, trellis_stage_name(progress->stage));
	*last = progress->stage;
	return true;
}

static bool picture_to_mesh(struct trellis *t, const char *picture, const char *output, struct error *err)
{
	struct trellis_params params = trellis_params_default();
	struct trellis_image image = {0};
	struct trellis_latent latent = {0};
	struct trellis_mesh mesh = {0};
	enum trellis_stage stage = TRELLIS_WRITE; /* none of those to come */
	params.seed = 7;
	params.simplify = 0.5f;

	/* The latent is small and all that a mesh needs: keep it to decode again with other params. */
	bool ok = trellis_image_load(&image, picture, err) &&
		  trellis_generate(t, &image, 1, &params, show_progress, &stage, &latent, err) &&
		  trellis_decode(t, &latent, &params, show_progress, &stage, &mesh, err) &&
		  trellis_mesh_save(&mesh, output, err);
	if (ok)
		printf("%s: %lld vertices, %lld triangles\n", output, (long long)mesh.n_vertices,
			(long long)mesh.n_faces);
	trellis_mesh_finish(&mesh);
	trellis_latent_finish(&latent);
	trellis_image_finish(&image);
	return ok;
}

int main(int argc, char **argv)
{
	struct error err;
	if (argc < 3 || argc > 4) {
		fprintf(stderr, "usage: generate PICTURE OUTPUT.{glb,obj,ply,stl} [MODEL]\n");
		return 2;
	}
	/* Without a model: $TRELLIS_MODEL_PATH, else the small one that comes with the library. */
	struct trellis *t = trellis_create(&(struct trellis_options){.model = argc == 4 ? argv[3] : NULL}, &err);
	bool ok = t != NULL;
	if (ok) {
		fprintf(stderr, "model %s on %s\n", trellis_model_name(t), trellis_device(t)->name);
		ok = picture_to_mesh(t, argv[1], argv[2], &err);
	}
	trellis_destroy(t);
	if (!ok)
		fprintf(stderr, "generate: %s\n", err.text);
	return ok ? 0 : 1;
}
