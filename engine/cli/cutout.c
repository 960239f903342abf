/* cutout.c - `trellis cutout`: what the engine sees of a picture, for judging a photograph before a job is spent on it.
 */
#include "buffer.h"
#include "commands.h"
#include "matting.h"

#include <getopt.h>
#include <png.h>
#include <string.h>

static const char help[] =
	"usage: trellis cutout IMAGE -o CUTOUT.png\n"
	"\n"
	"Writes the picture as generate sees it: a PNG with an alpha channel, the object without its background. A\n"
	"picture that has an alpha channel keeps it. A photograph is scaled to at most 1024 pixels and cut out by its\n"
	"colours; correct the result in any editor and give it to generate instead when the cut is wrong.\n"
	"\n"
	"Options:\n"
	"  -o, --output FILE  the cut out picture\n"
	"  -h, --help         print this text\n";

static bool save_png(const struct trellis_image *image, const char *path, struct error *err)
{
	png_image png = {.version = PNG_IMAGE_VERSION, .width = (png_uint_32)image->width};
	png.height = (png_uint_32)image->height;
	png.format = PNG_FORMAT_RGBA;
	struct buffer out = {0};
	png_alloc_size_t size = 0;
	bool ok = png_image_write_get_memory_size(png, size, 0, image->rgba, 0, NULL);
	void *bytes = ok ? buffer_extend(&out, size) : NULL;
	if (!bytes || !png_image_write_to_memory(&png, bytes, &size, 0, image->rgba, 0, NULL))
		ok = error_set(err, "%s: %s", path, png.message[0] ? png.message : "out of memory");
	ok = ok && buffer_save(&out, path, err);
	buffer_finish(&out);
	return ok;
}

static bool cut_out(const char *input, const char *output, struct error *err)
{
	struct trellis_image image, cut = {0};
	const char *method = "alpha";
	if (!trellis_image_load(&image, input, err))
		return false;
	bool ok = image.has_alpha || matting_cut_out(&cut, &method, &image, err);
	ok = ok && save_png(image.has_alpha ? &image : &cut, output, err);
	if (ok)
		printf("%s: %s\n", output,
			strcmp(method, "alpha") == 0   ? "the picture's own alpha channel"
			: strcmp(method, "uncut") == 0 ? "the whole picture: its background is too busy to be cut away"
						       : "cut out by matting");
	trellis_image_finish(&cut);
	trellis_image_finish(&image);
	return ok;
}

int command_cutout(int argc, char **argv)
{
	static const struct option options[] = {
		{"output", required_argument, NULL, 'o'}, {"help", no_argument, NULL, 'h'}, {NULL, 0, NULL, 0}};
	const char *output = NULL;
	int option;
	while ((option = getopt_long(argc, argv, "o:h", options, NULL)) != -1) {
		if (option == 'h') {
			fputs(help, stdout);
			return 0;
		}
		if (option != 'o')
			return 2; /* getopt has said why */
		output = optarg;
	}
	if (optind + 1 != argc)
		return cli_usage(argv[0], "wanted one picture, got %d", argc - optind);
	if (!output)
		return cli_usage(argv[0], "-o: where to write the cut out picture is missing");
	struct error err;
	return cut_out(argv[optind], output, &err) ? 0 : cli_fail(argv[0], &err);
}
