/* image.c - picture files to 8-bit RGBA: reads a file whole, tells its format, has it decoded.
 * Used by the programs before prepare_image.c; image_png.c and image_jpeg.c do the decoding.
 *
 * Files come from strangers. Sizes are checked before memory is asked for, damage is an error and never a half grey
 * picture, bytes after the end of the picture are ignored. */
#include "image.h"
#include "buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const struct image_limits image_default_limits = {
	.side = 30000, .pixels = 100 * 1000 * 1000, .file_bytes = 256 << 20, .scans = 100};

void trellis_image_finish(struct trellis_image *image)
{
	free(image->rgba);
	*image = (struct trellis_image){0};
}

bool image_check_size(
	uint32_t width, uint32_t height, const char *name, const struct image_limits *limits, struct error *err)
{
	if (width == 0 || height == 0)
		return error_set(err, "%s: the image has no pixels (%u x %u)", name, width, height);
	if (width > (uint32_t)limits->side || height > (uint32_t)limits->side ||
		(int64_t)width * height > limits->pixels)
		return error_set(err, "%s: %u x %u pixels is over the limit of %d a side and %lld megapixels in all",
			name, width, height, limits->side, (long long)limits->pixels / 1000000);
	return true;
}

/* What begins with magic at offset is a kind of file that people try; only PNG and JPEG are read. */
static const struct {
	size_t offset, size;
	const char *magic;
	const char *kind;
} known_formats[] = {
	{0, 8, "\x89PNG\r\n\x1a\n", "PNG"},
	{0, 3, "\xff\xd8\xff", "JPEG"},
	{8, 4, "WEBP", "WebP"},
	{4, 8, "ftypavif", "AVIF"},
	{4, 8, "ftypavis", "AVIF"},
	{4, 7, "ftyphei", "HEIC"},
	{4, 7, "ftyphev", "HEIC"},
	{4, 8, "ftypmif1", "HEIC"},
	{4, 8, "ftypmsf1", "HEIC"},
	{0, 4, "II*\0", "TIFF"},
	{0, 4, "MM\0*", "TIFF"},
	{0, 4, "II+\0", "TIFF"},
	{0, 4, "MM\0+", "TIFF"},
	{0, 4, "GIF8", "GIF"},
	{0, 4, "8BPS", "Photoshop"},
	{0, 8, "\0\0\0\x0cJXL ", "JPEG XL"},
	{0, 2, "\xff\x0a", "JPEG XL"},
	{0, 8, "\0\0\0\x0cjP  ", "JPEG 2000"},
	{0, 4, "\xff\x4f\xff\x51", "JPEG 2000"},
	{0, 2, "BM", "BMP"},
};

/* NULL: none that we know. */
static const char *tell_format(const uint8_t *bytes, size_t size)
{
	for (size_t i = 0; i < sizeof known_formats / sizeof *known_formats; i++)
		if (size >= known_formats[i].offset + known_formats[i].size &&
			memcmp(bytes + known_formats[i].offset, known_formats[i].magic, known_formats[i].size) == 0)
			return known_formats[i].kind;
	return NULL;
}

static bool is_any_transparent(const struct trellis_image *image)
{
	size_t n = (size_t)image->width * (size_t)image->height;
	for (size_t i = 0; i < n; i++)
		if (image->rgba[4 * i + 3] != 255)
			return true;
	return false;
}

bool image_decode(struct trellis_image *image, const void *bytes, size_t size, const char *name,
	const struct image_limits *limits, struct error *err)
{
	if (size == 0)
		return error_set(err, "%s: is empty", name);
	const char *format = tell_format(bytes, size);
	if (!format)
		return error_set(err, "%s: is not an image; PNG and JPEG are supported", name);
	bool is_png = strcmp(format, "PNG") == 0;
	if (!is_png && strcmp(format, "JPEG") != 0)
		return error_set(err, "%s: is a %s image; only PNG and JPEG are supported", name, format);
	struct trellis_image decoded = {0};
	if (!(is_png ? image_decode_png : image_decode_jpeg)(&decoded, bytes, size, name, limits, err))
		return false;
	decoded.has_alpha = is_any_transparent(&decoded);
	*image = decoded;
	return true;
}

bool trellis_image_decode(
	struct trellis_image *image, const void *bytes, size_t size, const char *name, struct error *err)
{
	return image_decode(image, bytes, size, name, &image_default_limits, err);
}

/* The whole of a regular file; what a file loses or gains while it is read does not matter here. */
static uint8_t *read_file(size_t *size, const char *path, size_t limit, struct error *err)
{
	/* O_NONBLOCK: a FIFO without a writer must not hang us before fstat() can tell it apart. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0) {
		error_set(err, "%s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return NULL;
	}
	uint8_t *bytes = NULL;
	ssize_t n = 0;
	if (!S_ISREG(st.st_mode)) {
		error_set(err, "%s: is %s, not an image file", path,
			S_ISDIR(st.st_mode) ? "a directory" : "not a regular file");
	} else if ((uint64_t)st.st_size > limit) {
		error_set(err, "%s: %lld bytes is over the limit of %zu MiB for an image file", path,
			(long long)st.st_size, limit >> 20);
	} else if (!(bytes = malloc((size_t)st.st_size + 1))) {
		error_set(err, "%s: out of memory reading %lld bytes", path, (long long)st.st_size);
	}
	if (bytes && (n = file_read(fd, bytes, (size_t)st.st_size)) < 0) {
		error_set(err, "%s: %s", path, strerror(errno));
		free(bytes);
		bytes = NULL;
	}
	close(fd);
	*size = (size_t)n;
	return bytes;
}

bool trellis_image_load(struct trellis_image *image, const char *path, struct error *err)
{
	size_t size;
	uint8_t *bytes = read_file(&size, path, image_default_limits.file_bytes, err);
	bool ok = bytes && trellis_image_decode(image, bytes, size, path, err);
	free(bytes);
	return ok;
}
