/* test_matting.c - the cut of photographs whose true outline is known, over backgrounds from easy to hard.
 *
 * Figures are ratchets: the overlap (intersection over union) that was measured, less 0.02 for other versions of
 * libjpeg. They say what works and what does not: openings that one can look through are filled (robot's legs, teapot's
 * handle, and between the stool's legs when a shadow closes them); wood-coloured legs before wood are lost. */
#include "matting.h"

#include "matting_cut.h"
#include "matting_edge.h"
#include "photographs.h"

#include <criterion/criterion.h>

#define MARGIN 0.02

static struct trellis_image load_object(const char *name)
{
	char path[128];
	struct trellis_image image;
	struct error err;
	snprintf(path, sizeof path, "tests/golden/objects/%s.png", name);
	cr_assert(trellis_image_load(&image, path, &err), "%s", err.text);
	return image;
}

static struct trellis_image take_photograph(
	const struct trellis_image *object, enum scene scene, int width, int height, int left, int top)
{
	struct bytes file = make_photograph(object, scene, width, height, left, top);
	struct trellis_image photograph;
	struct error err;
	cr_assert(trellis_image_decode(&photograph, file.data, file.size, "photograph", &err), "%s", err.text);
	cr_assert_not(photograph.has_alpha);
	free(file.data);
	return photograph;
}

/* Overlap of the cut with the object's own alpha, in the cut's pixels. */
static double overlap(
	const struct trellis_image *cut, const struct trellis_image *object, double scale, int left, int top)
{
	int both = 0, either = 0;
	for (int y = 0; y < cut->height; y++) {
		for (int x = 0; x < cut->width; x++) {
			int u = (int)floor((x + 0.5) * scale) - left, v = (int)floor((y + 0.5) * scale) - top;
			bool is_inside = u >= 0 && v >= 0 && u < object->width && v < object->height;
			bool truth = is_inside && object->rgba[(v * object->width + u) * 4 + 3] > 127;
			bool got = cut->rgba[(y * cut->width + x) * 4 + 3] > 127;
			both += truth && got;
			either += truth || got;
		}
	}
	return (double)both / either;
}

static void check_object(const char *name, const double measured[SCENES])
{
	enum { WIDTH = 700, HEIGHT = 640, LEFT = 114, TOP = 64 };
	struct trellis_image object = load_object(name);
	for (int scene = 0; scene < SCENES; scene++) {
		struct trellis_image photograph = take_photograph(&object, scene, WIDTH, HEIGHT, LEFT, TOP), cut;
		const char *method;
		struct error err;
		cr_assert(matting_cut_out(&cut, &method, &photograph, &err), "%s", err.text);
		cr_assert_str_eq(method, "matting");
		cr_assert(cut.has_alpha && cut.width == WIDTH && cut.height == HEIGHT);
		double got = overlap(&cut, &object, 1, LEFT, TOP);
		cr_expect(got >= measured[scene] - MARGIN, "%s before %s: overlap %.3f, was %.3f", name,
			scene_names[scene], got, measured[scene]);
		trellis_image_finish(&cut);
		trellis_image_finish(&photograph);
	}
	trellis_image_finish(&object);
}

/*                                                      white  green  gradient noise shadow two-tone wood */
Test(matting, robot)
{
	check_object("robot", (const double[SCENES]){0.964, 0.950, 0.964, 0.965, 0.962, 0.960, 0.956});
}

Test(matting, snowman)
{
	check_object("snowman", (const double[SCENES]){0.987, 0.994, 0.990, 0.924, 0.821, 0.995, 0.994});
}

Test(matting, stool)
{
	check_object("stool", (const double[SCENES]){0.987, 0.970, 0.986, 0.988, 0.857, 0.761, 0.611});
}

Test(matting, teapot)
{
	check_object("teapot", (const double[SCENES]){0.978, 0.968, 0.976, 0.979, 0.979, 0.979, 0.917});
}

/* Larger than 1024: scaled as the official code does, and cut out there. */
Test(matting, large_photographs_are_scaled)
{
	struct trellis_image object = load_object("teapot");
	struct trellis_image photograph = take_photograph(&object, SCENE_SHADOW, 1400, 1200, 400, 300), cut;
	const char *method;
	struct error err;
	cr_assert(matting_cut_out(&cut, &method, &photograph, &err), "%s", err.text);
	cr_assert(cut.width == 1024 && cut.height == 877); /* int(1200 * (1024 / 1400)) */
	double got = overlap(&cut, &object, 1400 / 1024.0, 400, 300);
	cr_assert(got >= 0.935 - MARGIN, "overlap %.3f", got);
	trellis_image_finish(&cut);
	trellis_image_finish(&photograph);
	trellis_image_finish(&object);
}

/* Cut off by the lower border, the object still is the object. */
Test(matting, cut_off_objects_are_kept)
{
	struct trellis_image object = load_object("stool");
	struct trellis_image photograph = take_photograph(&object, SCENE_GRADIENT, 700, 480, 114, 60), cut;
	const char *method;
	cr_assert(matting_cut_out(&cut, &method, &photograph, NULL));
	cr_assert_str_eq(method, "matting");
	cr_assert(cut.rgba[(470 * 700 + 114 + 245) * 4 + 3] > 200, "the leg at the lower border is missing");
	trellis_image_finish(&cut);
	trellis_image_finish(&photograph);
	trellis_image_finish(&object);
}

/* Before green, the edge's colour is the object's: the snowman is black and white, so no visible pixel may be green. */
Test(matting, no_fringe_of_the_background)
{
	struct trellis_image object = load_object("snowman");
	struct trellis_image photograph = take_photograph(&object, SCENE_GREEN, 700, 640, 114, 64), cut;
	const char *method;
	cr_assert(matting_cut_out(&cut, &method, &photograph, NULL));
	int visible = 0, green = 0, soft = 0;
	for (int i = 0; i < cut.width * cut.height; i++) {
		const uint8_t *p = cut.rgba + 4 * i;
		visible += p[3] > 25;
		soft += p[3] > 25 && p[3] < 230;
		int highest = p[0] > p[2] ? p[0] : p[2];
		green += p[3] > 25 && p[1] > highest + 40;
	}
	cr_assert(soft > 500, "only %d soft pixels along the edge", soft);
	cr_assert(green * 1000 < visible, "%d of %d visible pixels are green", green, visible);
	trellis_image_finish(&cut);
	trellis_image_finish(&photograph);
	trellis_image_finish(&object);
}

/* Backgrounds without anything before them are a named error: noise, gradient and shadow too. */
Test(matting, nothing_to_cut_out)
{
	struct trellis_image nothing = {.width = 1, .height = 1, .rgba = (uint8_t[4]){0}};
	for (int scene = 0; scene < SCENES; scene++) {
		if (scene == SCENE_TWO_TONE || scene == SCENE_WOOD)
			continue; /* a piece of the background is taken for an object: a known limit */
		struct trellis_image photograph = take_photograph(&nothing, scene, 300, 260, 150, 130), cut = {0};
		const char *method = NULL;
		struct error err = {""};
		cr_expect_not(matting_cut_out(&cut, &method, &photograph, &err), "%s", scene_names[scene]);
		cr_expect_str_eq(err.text,
			"no object found: nothing in the picture differs clearly from the colours along its border");
		cr_expect(cut.rgba == NULL && method == NULL);
		trellis_image_finish(&photograph);
	}
}

/* Blocks of random colours: no telling what is background. The picture is used whole, and the method says so. */
Test(matting, busy_pictures_are_left_uncut)
{
	enum { WIDTH = 256, HEIGHT = 192 };
	struct trellis_image image = {.width = WIDTH, .height = HEIGHT, .rgba = malloc(WIDTH * HEIGHT * 4)}, cut;
	uint8_t colors[32 * 24][3];
	unsigned seed = 1;
	for (int i = 0; i < 32 * 24 * 3; i++)
		colors[i / 3][i % 3] = (uint8_t)(rand_r(&seed) >> 7);
	for (int i = 0; i < WIDTH * HEIGHT; i++) {
		memcpy(image.rgba + 4 * i, colors[i / WIDTH / 8 * 32 + i % WIDTH / 8], 3);
		image.rgba[4 * i + 3] = 255;
	}
	const char *method;
	cr_assert(matting_cut_out(&cut, &method, &image, NULL));
	cr_assert_str_eq(method, "uncut");
	cr_assert(!cut.has_alpha && cut.width == WIDTH && cut.height == HEIGHT);
	cr_assert_arr_eq(cut.rgba, image.rgba, WIDTH * HEIGHT * 4);
	trellis_image_finish(&cut);
	trellis_image_finish(&image);
}

Test(matting, odd_sizes)
{
	static const int sizes[][2] = {{1, 1}, {1, 50}, {50, 1}, {2, 3}, {3000, 2}, {17, 1100}};
	for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
		int n = sizes[s][0] * sizes[s][1];
		struct trellis_image image = {.width = sizes[s][0],
					     .height = sizes[s][1],
					     .rgba = malloc((size_t)n * 4)},
				     cut;
		for (int i = 0; i < 4 * n; i++)
			image.rgba[i] = i % 4 == 3 ? 255 : (uint8_t)((uint32_t)i * 2654435761u >> 24);
		const char *method;
		struct error err = {""};
		if (matting_cut_out(&cut, &method, &image, &err))
			trellis_image_finish(&cut);
		else
			cr_assert_eq(strncmp(err.text, "no object found: ", 17), 0, "%s", err.text);
		trellis_image_finish(&image);
	}
}

/* Holes are filled and specks dropped. */
Test(matting, tidy)
{
	uint8_t labels[20 * 20] = {0};
	for (int y = 4; y < 16; y++)
		for (int x = 4; x < 16; x++)
			labels[y * 20 + x] = LABEL_OBJECT;
	labels[8 * 20 + 8] = labels[9 * 20 + 9] = LABEL_BACKGROUND; /* holes */
	labels[1 * 20 + 1] = LABEL_OBJECT;			    /* a speck */
	labels[4 * 20 + 10] = LABEL_BACKGROUND;			    /* a notch stays */
	int size;
	cr_assert(matting_tidy(labels, 20, 20, &size, NULL));
	cr_assert_eq(size, 143);
	cr_assert_eq(labels[8 * 20 + 8], LABEL_OBJECT);
	cr_assert_eq(labels[1 * 20 + 1], LABEL_BACKGROUND);
	cr_assert_eq(labels[4 * 20 + 10], LABEL_BACKGROUND);
}

/* The energy that the cut minimises, by its definition. */
static double cut_energy(const uint8_t *labels, int w, int h, const float *preference, const float (*lab)[3])
{
	double energy = 0;
	for (int i = 0; i < w * h; i++) {
		energy += labels[i] == LABEL_OBJECT ? fmax(-preference[i], 0) : fmax(preference[i], 0);
		for (int j = i + 1; j < w * h; j++) {
			int dx = abs(i % w - j % w), dy = abs(i / w - j / w);
			if (dx > 1 || dy > 1 || labels[i] == labels[j])
				continue;
			double square = 0;
			for (int c = 0; c < 3; c++)
				square += (lab[i][c] - lab[j][c]) * (lab[i][c] - lab[j][c]);
			energy += 1.5 * exp(-0.3 * square) / sqrt(dx + dy);
		}
	}
	return energy;
}

/* Against every labelling of 4 x 3 pixels: the cut is the best one. Capacities are rounded to 1/256. */
Test(matting, cut_is_the_smallest)
{
	enum { W = 4, H = 3, N = W * H };
	uint32_t state = 7;
	for (int trial = 0; trial < 60; trial++) {
		float preference[N], lab[N][3];
		uint8_t labels[N], other[N];
		for (int i = 0; i < N; i++) {
			preference[i] = photograph_noise(&state);
			for (int c = 0; c < 3; c++)
				lab[i][c] = photograph_noise(&state);
			labels[i] = LABEL_UNKNOWN;
		}
		cr_assert(matting_cut(labels, W, H, preference, lab, 1.5f, 0.3f, NULL));
		double best = INFINITY, got = cut_energy(labels, W, H, preference, lab);
		for (int code = 0; code < 1 << N; code++) {
			for (int i = 0; i < N; i++)
				other[i] = code >> i & 1;
			best = fmin(best, cut_energy(other, W, H, preference, lab));
		}
		cr_assert(got <= best + 0.05, "trial %d: %.4f, the best is %.4f", trial, got, best);
	}
}
