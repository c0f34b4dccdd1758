// What Swift's concurrency library needs of libdispatch, whose thread pool the program never uses: every task runs on
// the event loop. Linked instead of libdispatch, these symbols keep 70 kB of relocated data and 110 kB of code out of
// the program, and a job that was sent to the pool by mistake would end the process rather than start a thread. A
// symbol that a later Swift adds would pull libdispatch in, and the linker report the duplicates. Release builds alone
// define SBW_NO_DISPATCH (scripts/lib.sh), because tests use libraries that need libdispatch.

#ifdef SBW_NO_DISPATCH

#define TRAP(name) \
  void name(void); \
  void name(void) { __builtin_trap(); }

TRAP(dispatch_activate)
TRAP(dispatch_after_f)
TRAP(dispatch_assert_queue)
TRAP(dispatch_async_f)
TRAP(dispatch_main)
TRAP(dispatch_queue_attr_make_with_qos_class)
TRAP(dispatch_queue_create)
TRAP(dispatch_queue_set_width)
TRAP(dispatch_release)
TRAP(dispatch_set_context)
TRAP(dispatch_source_create)
TRAP(dispatch_source_set_event_handler_f)
TRAP(dispatch_source_set_timer)
TRAP(dispatch_walltime)

// Only their addresses are taken.
char _dispatch_main_q[1];
char _dispatch_queue_attr_concurrent[1];
char _dispatch_source_type_timer[1];

#endif
