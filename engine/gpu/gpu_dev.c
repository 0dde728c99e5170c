/* gpu_dev: the instance, the choice of the device, its features as struct gpu_caps, opening and
 * closing.
 *
 * A device must have Vulkan 1.2, a compute queue, 16-bit storage, and subgroup arithmetic;
 * everything else is a capability. Only features that a kernel may use are switched on: copying the
 * device's feature struct would switch on robustBufferAccess, which costs up to 40 % on some
 * drivers. */
#define _POSIX_C_SOURCE 200809L
#include "gpu/vk.h"

#include "gpu/shaders.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define VALIDATION_LAYER "VK_LAYER_KHRONOS_validation"

/* The headers of Debian 12 end at 1.3.239. Newer features are declared here, as in the registry. */
#ifndef VK_KHR_cooperative_matrix
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR                          \
    ((VkStructureType)1000506000)
typedef struct {
    VkStructureType sType;
    void *pNext;
    VkBool32 cooperativeMatrix, cooperativeMatrixRobustBufferAccess;
} VkPhysicalDeviceCooperativeMatrixFeaturesKHR;
#define VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR ((VkStructureType)1000506001)
#define VK_COMPONENT_TYPE_FLOAT16_KHR 0
#define VK_COMPONENT_TYPE_FLOAT32_KHR 1
#define VK_SCOPE_SUBGROUP_KHR 3
typedef struct {
    VkStructureType sType;
    void *pNext;
    uint32_t MSize, NSize, KSize;
    int32_t AType, BType, CType, ResultType;
    VkBool32 saturatingAccumulation;
    int32_t scope;
} VkCooperativeMatrixPropertiesKHR;
typedef VkResult(VKAPI_PTR *PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)(
    VkPhysicalDevice physicalDevice, uint32_t *pPropertyCount,
    VkCooperativeMatrixPropertiesKHR *pProperties);
#endif
#ifndef VK_KHR_shader_bfloat16
#define VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR ((VkStructureType)1000141000)
typedef struct {
    VkStructureType sType;
    void *pNext;
    VkBool32 shaderBFloat16Type, shaderBFloat16DotProduct, shaderBFloat16CooperativeMatrix;
} VkPhysicalDeviceShaderBfloat16FeaturesKHR;
#endif

/* What is known of a device before it is opened. It must not be copied, because the feature structs
 * point to each other. */
struct probe {
    VkPhysicalDevice phys;
    struct gpu_caps caps;
    char missing[96]; /* what it lacks, so that hlm cannot use it; empty if it lacks nothing */
    uint32_t family, tick_bits, heap;
    const char *ext[4]; /* extensions to switch on */
    uint32_t n_ext;
    VkPhysicalDeviceProperties2 props;
    VkPhysicalDeviceVulkan11Properties props11;
    VkPhysicalDeviceVulkan12Properties props12;
    VkPhysicalDeviceVulkan13Properties props13;
    VkPhysicalDeviceMemoryProperties memory;
    VkPhysicalDeviceFeatures2 f;
    VkPhysicalDeviceVulkan11Features f11;
    VkPhysicalDeviceVulkan12Features f12;
    VkPhysicalDeviceVulkan13Features f13;
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coopmat;
    VkPhysicalDeviceShaderBfloat16FeaturesKHR bf16;
};

/* ---- errors ---------------------------------------------------------------------------------- */

static const char *result_text(VkResult r)
{
    switch (r) {
    case VK_ERROR_OUT_OF_HOST_MEMORY: return "out of host memory";
    case VK_ERROR_OUT_OF_DEVICE_MEMORY: return "out of device memory";
    case VK_ERROR_INITIALIZATION_FAILED: return "initialization failed";
    case VK_ERROR_DEVICE_LOST: return "device lost";
    case VK_ERROR_LAYER_NOT_PRESENT: return "layer not present";
    case VK_ERROR_EXTENSION_NOT_PRESENT: return "extension not present";
    case VK_ERROR_FEATURE_NOT_PRESENT: return "feature not present";
    case VK_ERROR_INCOMPATIBLE_DRIVER: return "incompatible driver";
    case VK_ERROR_TOO_MANY_OBJECTS: return "too many objects";
    case VK_ERROR_FRAGMENTATION: return "fragmentation";
    case VK_ERROR_OUT_OF_POOL_MEMORY: return "out of pool memory";
    case VK_ERROR_INVALID_SHADER_NV: return "invalid shader";
    default: return "error";
    }
}

/* Names the submission that was running: the first one whose value the timeline has not reached.
 * The timeline of a lost device is unreliable: a value past the last submission shows nothing. */
static const char *running(struct gpu *g)
{
    uint64_t done = g->done, now;
    if (vkGetSemaphoreCounterValue(g->dev, g->timeline, &now) == VK_SUCCESS && now < g->submitted)
        done = now;
    const struct flight *f = &g->flight[(done + 1) % N_FLIGHT];
    return f->value == done + 1 ? f->what : "an unknown submission";
}

/* The kind of error of a call's result: no memory, or a driver that hlm cannot use. */
static enum hlm_error result_kind(VkResult r)
{
    return r == VK_ERROR_OUT_OF_HOST_MEMORY || r == VK_ERROR_OUT_OF_DEVICE_MEMORY ||
                   r == VK_ERROR_FRAGMENTATION || r == VK_ERROR_OUT_OF_POOL_MEMORY ||
                   r == VK_ERROR_TOO_MANY_OBJECTS
               ? HLM_ERR_MEMORY
               : HLM_ERR_UNSUPPORTED;
}

bool gpu_refused(struct gpu *g, VkResult r, const char *call, struct hlm_err *err)
{
    int n = (int)strcspn(call, "(");
    if (r != VK_ERROR_DEVICE_LOST)
        return fail_as(err, result_kind(r), "%s: %.*s: %s (%d)", g->caps.name, n, call,
                       result_text(r), (int)r);
    if (!g->lost) {
        g->lost = true;
        fail_as(&g->lost_err, HLM_ERR_DEVICE_LOST, "%s was lost (%.*s) while running %s",
                g->caps.name, n, call, g->timeline ? running(g) : "nothing");
        log_msg(HLM_LOG_DEBUG, "%s", g->lost_err.msg);
        if (g->dev) /* later code does not wait any more, so everything must have ended */
            vkDeviceWaitIdle(g->dev);
    }
    return fail_from(err, &g->lost_err, "");
}

bool gpu_ok(const struct gpu *g, struct hlm_err *err)
{
    return !g->lost || fail_from(err, &g->lost_err, "");
}

/* ---- instance -------------------------------------------------------------------------------- */

static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                 VkDebugUtilsMessageTypeFlagsEXT type,
                                                 const VkDebugUtilsMessengerCallbackDataEXT *data,
                                                 void *user)
{
    struct messages *to = user;
    struct hlm_log was = log_get();
    (void)severity, (void)type;
    atomic_fetch_add(&to->n, 1);
    log_to(&to->log); /* the driver may call from a thread of its own */
    log_msg(HLM_LOG_ERROR, "validation: %s", data->pMessage);
    log_to(&was);
    return VK_FALSE;
}

/* Takes only what the layer finds; the loader's messages about drivers have type GENERAL. */
static VkDebugUtilsMessengerCreateInfoEXT messenger_info(struct messages *to)
{
    return (VkDebugUtilsMessengerCreateInfoEXT){
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT,
        .messageSeverity = VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT |
                           VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT,
        .messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                       VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT,
        .pfnUserCallback = on_message,
        .pUserData = to,
    };
}

static bool instance_refused(VkResult r, bool validate, struct hlm_err *err)
{
    if (r == VK_ERROR_OUT_OF_HOST_MEMORY || r == VK_ERROR_OUT_OF_DEVICE_MEMORY)
        return fail_memory(err, "Vulkan cannot be started: %s", result_text(r));
    if (r == VK_ERROR_LAYER_NOT_PRESENT && validate)
        return fail_as(err, HLM_ERR_UNSUPPORTED,
                       "the Vulkan validation layer is not installed "
                       "(Debian, Ubuntu: vulkan-validationlayers)");
    return fail_as(err, HLM_ERR_UNSUPPORTED,
                   "no Vulkan device was found (%s). On Debian and Ubuntu the package "
                   "mesa-vulkan-drivers has drivers for AMD, Intel and the CPU; the driver for "
                   "NVIDIA is in nvidia-driver (Debian) or nvidia-driver-NNN (Ubuntu)",
                   r < 0 ? result_text(r) : "no driver has one");
}

/* to: the receiver of the validation layer's messages; NULL: the layer is off. */
static VkInstance instance_open(struct messages *to, struct hlm_err *err)
{
    uint32_t version = VK_API_VERSION_1_0;
    vkEnumerateInstanceVersion(&version);
    if (version < VK_API_VERSION_1_2) {
        fail_as(err, HLM_ERR_UNSUPPORTED,
                "the Vulkan loader is older than 1.2 (Debian, Ubuntu: libvulkan1)");
        return NULL;
    }
    VkDebugUtilsMessengerCreateInfoEXT messenger = messenger_info(to);
    const VkValidationFeaturesEXT features = {
        .sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT,
        .pNext = &messenger,
        .enabledValidationFeatureCount = 1,
        .pEnabledValidationFeatures =
            &(VkValidationFeatureEnableEXT){
                VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT },
    };
    VkInstance instance = NULL;
    VkResult r = GUARD(vkCreateInstance(
        &(VkInstanceCreateInfo){
            .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
            .pNext = to ? &features : NULL,
            .pApplicationInfo =
                &(VkApplicationInfo){
                    .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                    .pApplicationName = "hlm",
                    .pEngineName = "hlm",
                    .apiVersion =
                        version < VK_API_VERSION_1_3 ? VK_API_VERSION_1_2 : VK_API_VERSION_1_3,
                },
            .enabledLayerCount = to ? 1 : 0,
            .ppEnabledLayerNames = &(const char *){ VALIDATION_LAYER },
            .enabledExtensionCount = to ? 1 : 0,
            .ppEnabledExtensionNames = &(const char *){ VK_EXT_DEBUG_UTILS_EXTENSION_NAME },
        },
        NULL, &instance));
    if (r < 0) {
        instance_refused(r, to, err);
        return NULL;
    }
    return instance;
}

/* All devices in the order of their numbers; the caller frees the list. NULL with a reason when
 * there is none. */
static VkPhysicalDevice *devices(VkInstance instance, uint32_t *n, struct hlm_err *err)
{
    VkPhysicalDevice *list = NULL;
    VkResult r = vkEnumeratePhysicalDevices(instance, n, NULL);
    if (r >= 0 && *n && !(list = mem_alloc(*n, sizeof *list)))
        r = VK_ERROR_OUT_OF_HOST_MEMORY;
    if (list)
        r = vkEnumeratePhysicalDevices(instance, n, list);
    if (r < 0 || !*n) {
        instance_refused(r, false, err);
        free(list);
        return NULL;
    }
    return list;
}

/* ---- what a device has ----------------------------------------------------------------------- */

static bool has_ext(const VkExtensionProperties *ext, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++)
        if (!strcmp(ext[i].extensionName, name))
            return true;
    return false;
}

static void query_features(struct probe *p)
{
    uint32_t n = 0;
    VkExtensionProperties *ext = NULL;
    if (vkEnumerateDeviceExtensionProperties(p->phys, NULL, &n, NULL) >= 0 &&
        (ext = mem_alloc(n, sizeof *ext)))
        vkEnumerateDeviceExtensionProperties(p->phys, NULL, &n, ext);
    n = ext ? n : 0;
    bool coopmat = has_ext(ext, n, "VK_KHR_cooperative_matrix"),
         bf16 = has_ext(ext, n, "VK_KHR_shader_bfloat16");
    p->caps.memory_budget = has_ext(ext, n, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
    free(ext);

    /* The chain is built from its end. It has only structs whose version or extension the device
     * has. */
    void *next = NULL;
    p->coopmat.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR;
    p->bf16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_BFLOAT16_FEATURES_KHR;
    p->f13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES;
    p->f12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES;
    p->f11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES;
    p->f.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    if (coopmat)
        next = &p->coopmat, p->ext[p->n_ext++] = "VK_KHR_cooperative_matrix";
    if (bf16)
        p->bf16.pNext = next, next = &p->bf16, p->ext[p->n_ext++] = "VK_KHR_shader_bfloat16";
    if (p->caps.memory_budget)
        p->ext[p->n_ext++] = VK_EXT_MEMORY_BUDGET_EXTENSION_NAME;
    if (p->caps.api_version >= VK_API_VERSION_1_3)
        p->f13.pNext = next, next = &p->f13;
    p->f12.pNext = next;
    p->f11.pNext = &p->f12;
    p->f.pNext = &p->f11;
    vkGetPhysicalDeviceFeatures2(p->phys, &p->f);
}

/* Keeps only the features that kernels may use. The chain of structs is then given to
 * vkCreateDevice. */
static void keep_features(struct probe *p)
{
    VkPhysicalDeviceVulkan11Features f11 = p->f11;
    VkPhysicalDeviceVulkan12Features f12 = p->f12;
    VkPhysicalDeviceVulkan13Features f13 = p->f13;
    p->f.features = (VkPhysicalDeviceFeatures){
        .shaderInt16 = p->f.features.shaderInt16,
    };
    p->f11 = (VkPhysicalDeviceVulkan11Features){
        .sType = f11.sType,
        .pNext = f11.pNext,
        .storageBuffer16BitAccess = f11.storageBuffer16BitAccess,
    };
    p->f12 = (VkPhysicalDeviceVulkan12Features){
        .sType = f12.sType,
        .pNext = f12.pNext,
        .timelineSemaphore = f12.timelineSemaphore,
        .storageBuffer8BitAccess = f12.storageBuffer8BitAccess,
        .shaderFloat16 = f12.shaderFloat16,
        .shaderInt8 = f12.shaderInt8,
        .scalarBlockLayout = f12.scalarBlockLayout,
        .shaderSubgroupExtendedTypes = f12.shaderSubgroupExtendedTypes,
        .vulkanMemoryModel = f12.vulkanMemoryModel, /* needed for cooperative matrices */
        .vulkanMemoryModelDeviceScope =             /* needed for atomics with that memory model */
        f12.vulkanMemoryModelDeviceScope,
    };
    p->f13 = (VkPhysicalDeviceVulkan13Features){
        .sType = f13.sType,
        .pNext = f13.pNext,
        .maintenance4 = f13.maintenance4, /* needed for local_size_x_id in shaders built for 1.3 */
        .shaderIntegerDotProduct = f13.shaderIntegerDotProduct,
        .subgroupSizeControl = f13.subgroupSizeControl,
        .computeFullSubgroups = f13.computeFullSubgroups,
    };
    p->coopmat.cooperativeMatrixRobustBufferAccess = false;
}

/* True if all device-local memory can be mapped and the device is not a card. Access to a card's
 * mapped memory would cross the bus. */
static bool is_unified(const VkPhysicalDeviceMemoryProperties *m, enum gpu_kind kind)
{
    const VkMemoryPropertyFlags both =
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    if (kind != GPU_INTEGRATED && kind != GPU_CPU)
        return false;
    for (uint32_t h = 0; h < m->memoryHeapCount; h++) {
        bool mapped = !(m->memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT);
        for (uint32_t t = 0; t < m->memoryTypeCount; t++)
            mapped |= m->memoryTypes[t].heapIndex == h &&
                      (m->memoryTypes[t].propertyFlags & both) == both &&
                      (m->memoryTypes[t].propertyFlags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT);
        if (!mapped)
            return false;
    }
    return true;
}

static void memory_caps(struct probe *p)
{
    struct gpu_caps *c = &p->caps;
    uint32_t heap = 0;
    vkGetPhysicalDeviceMemoryProperties(p->phys, &p->memory);
    for (uint32_t h = 0; h < p->memory.memoryHeapCount; h++)
        if ((p->memory.memoryHeaps[h].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) &&
            p->memory.memoryHeaps[h].size > c->heap_bytes) {
            c->heap_bytes = p->memory.memoryHeaps[h].size;
            heap = h;
        }
    p->heap = heap;
    if (c->kind == GPU_CPU) /* Mesa's llvmpipe before 23 reports 2 GiB on every machine */
        c->heap_bytes = max_u64(c->heap_bytes, host_bytes());
    if (!heap_free(p->phys, c->kind, c->memory_budget, heap, &c->free_bytes))
        c->free_bytes = c->heap_bytes;
    c->unified = is_unified(&p->memory, c->kind);

    uint64_t cap = p->props11.maxMemoryAllocationSize;
    if (c->api_version >= VK_API_VERSION_1_3)
        cap = min_u64(cap, p->props13.maxBufferSize);
    c->max_alloc = cap / (1 << 20) * (1 << 20);
    c->max_range = p->props.properties.limits.maxStorageBufferRange;
}

/* True if the driver counts the rounds of all loops of an invocation together, and ends every loop
 * after its first round once the count is 65535. Mesa 22.3.6 does; 25.0.7 was measured not to. In
 * doubt the answer is true. */
static bool has_loop_budget(const VkPhysicalDeviceVulkan12Properties *p)
{
    int major = 0;
    return p->driverID == VK_DRIVER_ID_MESA_LLVMPIPE &&
           (sscanf(p->driverInfo, "Mesa %d.", &major) != 1 || major < 25);
}

/* The largest of the device's products of f16 matrices with f32 sums into which coop.glsl can
 * divide its tiles. The kernels assign work to each subgroup of a workgroup, so the number of
 * subgroups must be known. */
static void coop_caps(VkInstance instance, struct probe *p)
{
    enum { INTEL = 0x8086 };
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR query =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vkGetInstanceProcAddr(
            instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    struct gpu_caps *c = &p->caps;
    VkCooperativeMatrixPropertiesKHR list[64];
    uint32_t n = ARRAY_LEN(list);
    if (!c->coopmat || !query || !c->f16 || c->max_invocations < 256 ||
        p->props13.maxComputeWorkgroupSubgroups < 8 || !p->f12.vulkanMemoryModel ||
        !p->f13.subgroupSizeControl || !p->f13.computeFullSubgroups ||
        !(p->props13.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT))
        return;
    for (uint32_t i = 0; i < n; i++)
        list[i] = (VkCooperativeMatrixPropertiesKHR){
            .sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR
        };
    if (query(p->phys, &n, list) < 0)
        return;
    for (uint32_t i = 0; i < n; i++) {
        const VkCooperativeMatrixPropertiesKHR *m = &list[i];
        bool sizes = (m->MSize == 8 || m->MSize == 16) && (m->NSize == 8 || m->NSize == 16) &&
                     (m->KSize == 8 || m->KSize == 16 || m->KSize == 32);
        bool types = m->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && m->BType == m->AType &&
                     m->CType == VK_COMPONENT_TYPE_FLOAT32_KHR && m->ResultType == m->CType;
        if (!sizes || !types || m->scope != VK_SCOPE_SUBGROUP_KHR || m->saturatingAccumulation ||
            m->MSize * m->NSize * m->KSize <= c->coop.m * c->coop.n * c->coop.k)
            continue;
        c->coop.m = m->MSize;
        c->coop.n = m->NSize;
        c->coop.k = m->KSize;
        /* Intel's matrix units work only with the narrowest subgroups. */
        c->coop.subgroup =
            p->props.properties.vendorID == INTEL ? p->props13.minSubgroupSize : c->subgroup;
    }
}

static void find_family(struct probe *p)
{
    VkQueueFamilyProperties family[32];
    uint32_t n = ARRAY_LEN(family);
    vkGetPhysicalDeviceQueueFamilyProperties(p->phys, &n, family);
    for (p->family = 0; p->family < n; p->family++)
        if (family[p->family].queueFlags & VK_QUEUE_COMPUTE_BIT) {
            p->tick_bits = family[p->family].timestampValidBits;
            return;
        }
    snprintf(p->missing, sizeof p->missing, "it has no compute queue");
}

static void probe(VkInstance instance, VkPhysicalDevice phys, struct probe *p)
{
    *p = (struct probe){ .phys = phys };
    struct gpu_caps *c = &p->caps;
    VkPhysicalDeviceProperties basic;
    vkGetPhysicalDeviceProperties(phys, &basic);
    snprintf(c->name, sizeof c->name, "%s", basic.deviceName);
    c->api_version = basic.apiVersion;
    c->kind = basic.deviceType == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU     ? GPU_DISCRETE
              : basic.deviceType == VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU ? GPU_INTEGRATED
              : basic.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU            ? GPU_CPU
                                                                           : GPU_OTHER;
    if (basic.apiVersion < VK_API_VERSION_1_2) {
        snprintf(p->missing, sizeof p->missing, "its driver has Vulkan %u.%u, hlm needs 1.2",
                 VK_API_VERSION_MAJOR(basic.apiVersion), VK_API_VERSION_MINOR(basic.apiVersion));
        return;
    }
    p->props.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    p->props11.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES;
    p->props12.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES;
    p->props13.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES;
    p->props.pNext = &p->props11;
    p->props11.pNext = &p->props12;
    p->props12.pNext = basic.apiVersion >= VK_API_VERSION_1_3 ? &p->props13 : NULL;
    vkGetPhysicalDeviceProperties2(phys, &p->props);
    query_features(p);
    memory_caps(p);
    find_family(p);

    const VkPhysicalDeviceLimits *l = &p->props.properties.limits;
    snprintf(c->driver, sizeof c->driver, "%.100s %.150s", p->props12.driverName,
             p->props12.driverInfo);
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        snprintf(c->uuid + 2 * i, 3, "%02x", p->props11.deviceUUID[i]);
    c->align = max_u32((uint32_t)l->minStorageBufferOffsetAlignment, 16);
    c->max_shared = l->maxComputeSharedMemorySize;
    c->max_invocations = min_u32(l->maxComputeWorkGroupInvocations, l->maxComputeWorkGroupSize[0]);
    c->subgroup = p->props11.subgroupSize;
    const VkSubgroupFeatureFlags subgroup_ops =
        VK_SUBGROUP_FEATURE_ARITHMETIC_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    c->subgroup_arith = (p->props11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
                        (p->props11.subgroupSupportedOperations & subgroup_ops) == subgroup_ops;
    c->loop_budget = has_loop_budget(&p->props12);
    c->f16 = p->f12.shaderFloat16;
    c->bf16_store = p->bf16.shaderBFloat16Type;
    c->int_dot = p->f13.shaderIntegerDotProduct;
    c->coopmat = p->coopmat.cooperativeMatrix;
    c->timeline = p->f12.timelineSemaphore;
    coop_caps(instance, p);
    if (!p->f11.storageBuffer16BitAccess)
        snprintf(p->missing, sizeof p->missing, "it has no 16-bit storage buffers");
    if (!c->subgroup_arith)
        snprintf(p->missing, sizeof p->missing,
                 "its shaders have no subgroup arithmetic or no shuffles");
    for (uint32_t k = 0; k < KERNEL_COUNT; k++)
        if (hlm_shaders[k].n_bind > l->maxPerStageDescriptorStorageBuffers && !p->missing[0])
            snprintf(p->missing, sizeof p->missing, "it binds %u buffers at a time, %s needs %u",
                     l->maxPerStageDescriptorStorageBuffers, kernel_table[k].name,
                     hlm_shaders[k].n_bind);
}

/* ---- choice ---------------------------------------------------------------------------------- */

int gpu_list(struct gpu_caps *out, int max, struct hlm_err *err)
{
    int n_all = -1;
    uint32_t n = 0;
    VkPhysicalDevice *list = NULL;
    struct probe *p = NULL;
    VkInstance instance = instance_open(NULL, err);
    if (instance && (list = devices(instance, &n, err)) && (p = mem_alloc(1, sizeof *p))) {
        for (uint32_t i = 0; i < n && (int)i < max; i++) {
            probe(instance, list[i], p);
            out[i] = p->caps;
            size_t len = strlen(out[i].driver);
            if (p->missing[0])
                snprintf(out[i].driver + len, sizeof out[i].driver - len, " (cannot be used: %s)",
                         p->missing);
        }
        n_all = (int)n;
    }
    free(p);
    free(list);
    if (instance)
        vkDestroyInstance(instance, NULL);
    return n_all;
}

static bool name_has(const char *name, const char *part)
{
    size_t n = strlen(part);
    for (; *name; name++) {
        size_t i = 0;
        while (i < n && tolower((unsigned char)name[i]) == tolower((unsigned char)part[i]))
            i++;
        if (i == n)
            return true;
    }
    return false;
}

/* Fills p for the chosen device. want: as gpu_params.device. */
static bool choose_device(VkInstance instance, const char *want, struct probe *p,
                          struct hlm_err *err)
{
    static const int rank[] = {
        [GPU_DISCRETE] = 0, [GPU_INTEGRATED] = 1, [GPU_OTHER] = 2, [GPU_CPU] = 3
    };
    bool any = !want || !*want, numbered = !any && strspn(want, "0123456789") == strlen(want);
    char names[320] = "", why[400] = "";
    uint32_t n = 0;
    int best = -1, best_rank = 99;
    VkPhysicalDevice *list = devices(instance, &n, err);
    if (!list)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        probe(instance, list[i], p);
        size_t len = strlen(names);
        snprintf(names + len, sizeof names - len, "%s%u: %s", i ? "; " : "", i, p->caps.name);
        if (!(any || (numbered ? strtoul(want, NULL, 10) == i : name_has(p->caps.name, want))))
            continue;
        if (p->missing[0])
            snprintf(why, sizeof why, "%s cannot be used: %s", p->caps.name, p->missing);
        else if (rank[p->caps.kind] < best_rank)
            best_rank = rank[p->caps.kind], best = (int)i;
    }
    if (best >= 0)
        probe(instance, list[best], p);
    free(list);
    if (best < 0 && why[0])
        return fail_as(err, HLM_ERR_UNSUPPORTED, "%s", why);
    return best >= 0 || fail(err, "no Vulkan device '%.60s'; there are %s", want, names);
}

/* ---- open and close -------------------------------------------------------------------------- */

static bool device_open(struct gpu *g, struct probe *p, struct hlm_err *err)
{
    keep_features(p);
    VKTRY(vkCreateDevice(p->phys,
                         &(VkDeviceCreateInfo){
                             .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                             .pNext = &p->f,
                             .queueCreateInfoCount = 1,
                             .pQueueCreateInfos =
                                 &(VkDeviceQueueCreateInfo){
                                     .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = p->family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &(float){ 1.0f },
                                 },
                             .enabledExtensionCount = p->n_ext,
                             .ppEnabledExtensionNames = p->ext,
                         },
                         NULL, &g->dev));
    vkGetDeviceQueue(g->dev, p->family, 0, &g->queue);
    VKTRY(vkCreateSemaphore(g->dev,
                            &(VkSemaphoreCreateInfo){
                                .sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO,
                                .pNext =
                                    &(VkSemaphoreTypeCreateInfo){
                                        .sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                        .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE,
                                    },
                            },
                            NULL, &g->timeline));
    return true;
fail:
    return false;
}

static bool messenger_open(struct gpu *g, struct hlm_err *err)
{
    PFN_vkCreateDebugUtilsMessengerEXT create =
        (PFN_vkCreateDebugUtilsMessengerEXT)vkGetInstanceProcAddr(g->instance,
                                                                  "vkCreateDebugUtilsMessengerEXT");
    VkDebugUtilsMessengerCreateInfoEXT info = messenger_info(&g->messages);
    VkResult r =
        create ? create(g->instance, &info, NULL, &g->messenger) : VK_ERROR_EXTENSION_NOT_PRESENT;
    return r >= 0 || gpu_refused(g, r, "vkCreateDebugUtilsMessengerEXT", err);
}

struct gpu *gpu_open(const struct gpu_params *params, struct hlm_err *err)
{
    struct probe *p = mem_alloc(1, sizeof *p);
    struct gpu *g = mem_alloc(1, sizeof *g);
    if (!p || !g) {
        fail_memory(err, "out of host memory");
        goto fail;
    }
    g->validate = params->validate;
    g->profile = params->profile;
    g->preparing = params->preparing;
    g->preparing_user = params->preparing_user;
    g->messages.log = log_get();
    if (!(g->instance = instance_open(g->validate ? &g->messages : NULL, err)) ||
        (g->validate && !messenger_open(g, err)) ||
        !choose_device(g->instance, params->device, p, err))
        goto fail;
    g->phys = p->phys;
    g->caps = p->caps;
    g->limits = p->props.properties.limits;
    g->memory = p->memory;
    g->family = p->family;
    g->driver_version = p->props.properties.driverVersion;
    g->tick_us = p->tick_bits ? (double)g->limits.timestampPeriod * 1e-3 : 0;
    memcpy(g->cache_uuid, p->props.properties.pipelineCacheUUID, VK_UUID_SIZE);
    if (params->test_staging || fault_staging())
        g->caps.unified = false;
    if (params->test_max_alloc)
        g->caps.max_alloc = min_u64(g->caps.max_alloc, align_up(params->test_max_alloc, 65536));
    if (params->test_max_range)
        g->caps.max_range = min_u64(g->caps.max_range, params->test_max_range);
    g->heap = p->heap;
    g->budget = params->memory ? params->memory : g->caps.free_bytes / 20 * 19;
    /* The speed until one is measured: of the slowest machines with a watchdog, and of a CPU. */
    g->flop_s = g->caps.kind == GPU_CPU ? 5e9 : g->caps.kind == GPU_DISCRETE ? 4e11 : 1e11;
    if (!device_open(g, p, err) || !pipes_open(g, params->cache_dir, err) || !copy_open(g, err))
        goto fail;
    free(p);
    log_msg(HLM_LOG_DEBUG, "device: %s, %s", g->caps.name, g->caps.driver);
    return g;
fail:
    free(p);
    gpu_close(g);
    return NULL;
}

void gpu_close(struct gpu *g)
{
    if (!g)
        return;
    if (g->dev) {
        vkDeviceWaitIdle(g->dev);
        copy_close(g);
        pipes_close(g);
        vkDestroySemaphore(g->dev, g->timeline, NULL);
        vkDestroyDevice(g->dev, NULL);
    }
    if (g->messenger) {
        PFN_vkDestroyDebugUtilsMessengerEXT destroy =
            (PFN_vkDestroyDebugUtilsMessengerEXT)vkGetInstanceProcAddr(
                g->instance, "vkDestroyDebugUtilsMessengerEXT");
        destroy(g->instance, g->messenger, NULL);
    }
    if (g->instance)
        vkDestroyInstance(g->instance, NULL);
    free(g);
}

const struct gpu_caps *gpu_caps(const struct gpu *g) { return &g->caps; }
uint32_t gpu_validation_count(const struct gpu *g) { return atomic_load(&g->messages.n); }
struct gpu_counts gpu_counts(const struct gpu *g) { return g->counts; }
