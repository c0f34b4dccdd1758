// SwiftPM wants a C target to have a source file; the door itself is include/CReactor.h.
#include "CReactor.h"
