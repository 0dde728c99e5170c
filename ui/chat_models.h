/* chat_models: models that are on this machine - in hlm's own folder and in those of llama.cpp,
 * LM Studio and ollama. */
#pragma once
#include "common.h"

struct found_model {
    char *path;
    char *name;     /* of the file without .gguf; in ollama's folder NAME:TAG */
    uint64_t bytes; /* of all files of a split model */
};
struct found_models {
    struct found_model *v;
    uint32_t n, cap;
};

/* Fills m, sorted by name; a folder that is not there has none. */
void models_find(struct found_models *m);
void models_free(struct found_models *m);
/* The path of the model of this name, NULL: there is none. Capitals are no difference. */
const char *models_path(const struct found_models *m, const char *name);
/* Lists them on standard error: size, architecture, whether a conversation would fit the device. */
void models_list(const struct found_models *m, uint64_t memory);
