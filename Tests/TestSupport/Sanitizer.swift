// Whether this build has a sanitizer. Invariant: the worker's build has it, too.

import Glibc

public enum Sanitizer {
  /// A sanitizer's run time reads /proc, and makes calls that the worker's sandbox refuses.
  public static var isOn: Bool { dlsym(nil, "__asan_init") != nil || dlsym(nil, "__tsan_init") != nil }
}
