/* render.c - `trellis render`: pictures of a mesh. */
#include "commands.h"
#include "glb_read.h"
#include "png_write.h"
#include "preview.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
	"usage: trellis render MESH.glb -o PICTURE.png [OPTION]...\n"
	"\n"
	"Draws a mesh in its colours with soft light, as a PNG picture. Without --yaw or --turntable it shows the "
	"front\n"
	"and the back side by side. Reads GLB files of plain triangles, such as those that trellis writes.\n"
	"\n"
	"Options:\n"
	"  -o, --output FILE      the picture\n"
	"  -s, --size WxH         size of one view in pixels, 16 to 4096 each (default 512x512)\n"
	"  -y, --yaw DEGREES      one view: 0 from the front, 90 from the right, 180 from the back\n"
	"  -p, --pitch DEGREES    how high to look from, -80 to 80 (default 18)\n"
	"  -t, --turntable N      an animation of N views all around, 2 to 360 (APNG, which browsers play)\n"
	"  -h, --help             print this text\n";

#define TURN_MS 4000 /* a whole turn */

struct options {
	const char *input, *output;
	int width, height, turntable;
	float yaw_deg, pitch_deg;
	bool has_yaw;
};

static bool parse_number(const char *text, double low, double high, double *value)
{
	char *end;
	errno = 0;
	*value = strtod(text, &end);
	return end != text && !*end && !errno && *value >= low && *value <= high;
}

static bool parse_size(const char *text, struct options *o)
{
	char end;
	return sscanf(text, "%dx%d%c", &o->width, &o->height, &end) == 2 && o->width >= 16 && o->width <= 4096 &&
	       o->height >= 16 && o->height <= 4096;
}

/* 0, or the exit status of a wrong call. */
static int parse_option(int option, struct options *o, const char *argv0)
{
	double number = 0;
	switch (option) {
	case 'o':
		o->output = optarg;
		return 0;
	case 's':
		return parse_size(optarg, o)
			       ? 0
			       : cli_usage(argv0, "--size: wanted WxH, 16 to 4096 each, got \"%s\"", optarg);
	case 'y':
		if (!parse_number(optarg, -360, 360, &number))
			return cli_usage(argv0, "--yaw: wanted -360 to 360, got \"%s\"", optarg);
		o->yaw_deg = (float)number;
		o->has_yaw = true;
		return 0;
	case 'p':
		if (!parse_number(optarg, -80, 80, &number))
			return cli_usage(argv0, "--pitch: wanted -80 to 80, got \"%s\"", optarg);
		o->pitch_deg = (float)number;
		return 0;
	case 't':
		if (!parse_number(optarg, 2, 360, &number) || number != (int)number)
			return cli_usage(argv0, "--turntable: wanted a whole number from 2 to 360, got \"%s\"", optarg);
		o->turntable = (int)number;
		return 0;
	default:
		return 2; /* getopt has said why */
	}
}

/* One after the other into out: views_a_frame views side by side each. */
static bool draw_frames(struct buffer *out, int n_frames, int views_a_frame, const struct preview *p,
	const struct options *o, struct error *err)
{
	int row = o->width * views_a_frame;
	uint8_t *rgb = malloc((size_t)row * (size_t)o->height * 3);
	struct png png;
	bool ok = rgb || error_set(err, "%s: out of memory", o->output);
	png_begin(&png, out, row, o->height, n_frames, TURN_MS / n_frames);
	for (int i = 0; ok && i < n_frames; i++) {
		for (int v = 0; ok && v < views_a_frame; v++) {
			float yaw = o->yaw_deg + 360 * (float)i / (float)n_frames + 180 * (float)v;
			ok = preview_draw(p, rgb + (size_t)v * (size_t)o->width * 3, o->width, o->height, row, yaw,
				o->pitch_deg, err);
		}
		ok = ok && png_frame(&png, rgb, err);
	}
	free(rgb);
	return ok;
}

/* Not the mesh itself, by whatever name. */
static bool check_output(const struct options *o, struct error *err)
{
	struct stat in, out;
	bool same = stat(o->input, &in) == 0 && stat(o->output, &out) == 0 && in.st_dev == out.st_dev &&
		    in.st_ino == out.st_ino;
	return !same || error_set(err, "%s: the picture would replace the mesh", o->output);
}

static bool render(const struct options *o, struct error *err)
{
	struct trellis_mesh m = {0};
	struct buffer bytes = {0};
	struct preview *p = NULL;
	int n_frames = o->turntable ? o->turntable : 1, views = o->turntable || o->has_yaw ? 1 : 2;
	bool ok = check_output(o, err) && glb_load(&m, o->input, err) && (p = preview_create(&m, err)) &&
		  draw_frames(&bytes, n_frames, views, p, o, err) && buffer_save(&bytes, o->output, err);
	preview_destroy(p);
	buffer_finish(&bytes);
	trellis_mesh_finish(&m);
	return ok;
}

int command_render(int argc, char **argv)
{
	static const struct option long_options[] = {
		{"output", required_argument, NULL, 'o'},
		{"size", required_argument, NULL, 's'},
		{"yaw", required_argument, NULL, 'y'},
		{"pitch", required_argument, NULL, 'p'},
		{"turntable", required_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct options o = {.width = 512, .height = 512, .yaw_deg = 30, .pitch_deg = 18};
	struct error err = {""};
	int option;
	while ((option = getopt_long(argc, argv, "o:s:y:p:t:h", long_options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return 0;
		}
		int status = parse_option(option, &o, argv[0]);
		if (status)
			return status;
	}
	if (optind + 1 != argc)
		return cli_usage(argv[0], "wanted one mesh, got %d", argc - optind);
	if (!o.output)
		return cli_usage(argv[0], "-o PICTURE.png is missing");
	if (o.turntable && o.has_yaw)
		return cli_usage(argv[0], "--turntable and --yaw exclude each other");
	o.input = argv[optind];
	return render(&o, &err) ? 0 : cli_fail(argv[0], &err);
}
