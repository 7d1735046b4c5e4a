// Strings on their way from a host function into Lua: each as its length and its bytes, in memory that the engine owns.
#include <stdlib.h>
#include <string.h>

#include "engine.h"

#define RL_LIST_KEPT ((size_t)64 << 10)

rl_list *rl_fresh_list(rl_engine *e) {
    rl_list *list = &e->list;
    if (list->capacity > RL_LIST_KEPT) {
        free(list->bytes);
        list->bytes = NULL;
        list->capacity = 0;
    }
    list->count = 0;
    list->failed = false;
    return list;
}

bool rl_list_append(rl_list *list, const char *bytes, size_t count) {
    size_t needed = list->count + sizeof(count) + count;
    if (needed > list->capacity) {
        size_t capacity = needed * 2;
        char *grown = realloc(list->bytes, capacity);
        if (grown == NULL) list->failed = true;
        if (list->failed) return false;
        list->bytes = grown;
        list->capacity = capacity;
    }
    memcpy(list->bytes + list->count, &count, sizeof(count));
    if (count > 0) memcpy(list->bytes + list->count + sizeof(count), bytes, count);
    list->count = needed;
    return true;
}

size_t rl_push_item_mayraise(lua_State *L, const rl_list *list, size_t offset) {
    size_t count;
    if (list->failed || list->count - offset < sizeof(count)) return 0;
    memcpy(&count, list->bytes + offset, sizeof(count));
    lua_pushlstring(L, list->bytes + offset + sizeof(count), count);
    return offset + sizeof(count) + count;
}
