// The dialect of the six tunnel instructions: a client end speaks to a server end through `forward to server`.

#pragma once

#include "pairs.h"

extern const struct dialect tunnelDialect;
