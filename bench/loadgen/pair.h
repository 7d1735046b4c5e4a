// The dialect of raw pairs: what one end sends comes out at the other as it is, and the other sends it back.

#pragma once

#include "pairs.h"

extern const struct dialect pairDialect;
