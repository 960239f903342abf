/* plugin.c - the entry of trellis-cuda.so: what devices there are, why one can't be used, and a backend on one.
 * That a device computes right is found out by the engine (engine/probe.c), which lets it. */
#include "../plugin.h"
#include "cuda.h"

#include <stdlib.h>
#include <string.h>

extern const struct backend_ops cuda_ops;

/* "13.0" of 13000 */
static const char *version_text(char text[16], int version)
{
	snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
	return text;
}

static int count_devices(struct error *err)
{
	int count = 0, driver = 0, runtime = 0;
	char have[16], want[16];
	cudaError_t e = cudaGetDeviceCount(&count);
	cudaDriverGetVersion(&driver);
	cudaRuntimeGetVersion(&runtime);
	if (e == cudaSuccess && count > 0)
		return count;
	cudaGetLastError();
	if (driver == 0)
		error_set(err, "no NVIDIA driver is installed");
	else if (e == cudaErrorInsufficientDriver)
		error_set(err, "the NVIDIA driver is too old: it offers CUDA %s, %s is needed",
			version_text(have, driver), version_text(want, runtime));
	else if (e == cudaErrorNoDevice || e == cudaSuccess)
		error_set(err, "the NVIDIA driver shows no device%s",
			getenv("CUDA_VISIBLE_DEVICES") ? " (CUDA_VISIBLE_DEVICES is set)" : "");
	else
		error_set(err, "asking for CUDA devices failed: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
	return 0;
}

static bool describe_device(int ordinal, struct plugin_device *device, struct error *err)
{
	struct cudaDeviceProp prop;
	size_t free = 0, total = 0;
	cudaError_t e = cudaGetDeviceProperties(&prop, ordinal);
	if (e == cudaSuccess)
		e = cudaSetDevice(ordinal);
	if (e == cudaSuccess)
		e = cudaMemGetInfo(&free, &total);
	if (e != cudaSuccess) {
		cudaGetLastError();
		return error_set(err, "it does not answer: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
	}
	*device = (struct plugin_device){.memory_bytes = total, .free_bytes = free};
	snprintf(device->name, sizeof device->name, "%.95s", prop.name);
	return true;
}

/* Whether this library has code for the device: asked of a kernel, since PTX may serve where no machine code does. */
static bool has_code(struct cuda *c, struct error *err)
{
	cudaError_t e = launch_probe(&c->launch);
	if (e == cudaSuccess)
		e = cudaStreamSynchronize(c->launch.stream);
	if (e == cudaSuccess)
		return true;
	cudaGetLastError();
	if (e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction)
		return error_set(err, "no code for compute capability %d.%d in this build", c->launch.capability / 10,
			c->launch.capability % 10);
	return error_set(err, "running a kernel failed: %s (%s)", cudaGetErrorString(e), cudaGetErrorName(e));
}

/* What the calls of create report through. */
static bool succeeded(cudaError_t e, const char *what, struct error *err)
{
	if (e == cudaSuccess)
		return true;
	cudaGetLastError();
	return error_set(err, "%s failed: %s (%s)", what, cudaGetErrorString(e), cudaGetErrorName(e));
}

static bool start(struct cuda *c, struct error *err)
{
	struct cudaDeviceProp prop;
	cudaMemPool_t pool;
	uint64_t keep = UINT64_MAX;
	const char *mma = getenv("TRELLIS_CUDA_MMA");

	if (!succeeded(cudaSetDevice(c->ordinal), "choosing the device", err) ||
		!succeeded(cudaGetDeviceProperties(&prop, c->ordinal), "asking for its properties", err))
		return false;
	c->launch.capability = 10 * prop.major + prop.minor;
	c->launch.sm_count = prop.multiProcessorCount;
	c->launch.force_mma = mma && !strcmp(mma, "1");
	if (!succeeded(cudaStreamCreateWithFlags(&c->launch.stream, cudaStreamNonBlocking), "creating a stream", err) ||
		!succeeded(cudaDeviceGetDefaultMemPool(&pool, c->ordinal), "asking for its memory pool", err) ||
		!succeeded(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep),
			"setting up its memory pool", err) ||
		!has_code(c, err))
		return false;
	cublasStatus_t status = cublasLtCreate(&c->blas);
	if (status != CUBLAS_STATUS_SUCCESS)
		return error_set(err, "starting cuBLASLt failed: %s", cublasLtGetStatusString(status));
	c->workspace = cuda_alloc(&c->base, CUDA_WORKSPACE_BYTES);
	return c->workspace || error_set(err, "%s", c->base.error.text);
}

/* Copying into pinned memory: more do no better (NOTES.md). */
enum { COPY_THREADS = 8 };

static struct backend *create_backend(int ordinal, enum dtype act, struct error *err)
{
	struct cuda *c = calloc(1, sizeof *c);
	if (!c) {
		error_set(err, "out of memory");
		return NULL;
	}
	backend_init(&c->base, &cuda_ops, act);
	c->base.threads = COPY_THREADS;
	c->ordinal = ordinal;
	if (start(c, err))
		return &c->base;
	c->base.ops->destroy(&c->base);
	return NULL;
}

struct backend *cuda_helper(struct backend *b, struct error *err)
{
	struct backend *helper = create_backend(cuda_of(b)->ordinal, b->act, err);
	if (helper)
		helper->threads = b->threads;
	return helper;
}

__attribute__((visibility("default"))) const struct trellis_plugin *trellis_plugin(void)
{
	static const struct trellis_plugin plugin = {
		.abi = TRELLIS_PLUGIN_ABI,
		.backend_size = sizeof(struct backend),
		.ops_size = sizeof(struct backend_ops),
		.name = "cuda",
		.count = count_devices,
		.describe = describe_device,
		.create = create_backend,
	};
	return &plugin;
}
