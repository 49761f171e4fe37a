# Given as -DCMAKE_PROJECT_INCLUDE when building on the ROS wheels of a .venv. Does nothing on a ROS from apt.
#
# 1. The wheels' imported targets name an include directory of the machine that built them, and CMake refuses to generate
#    while a directory that does not exist is listed: such entries are dropped.
# 2. The generated Python targets export numpy's include directory. With .venv inside the source tree CMake refuses to export
#    a path of the source tree: such entries are kept for this build only.

function(_vlaforget_tidy_includes target)
  get_target_property(directories "${target}" INTERFACE_INCLUDE_DIRECTORIES)
  if(NOT directories)
    return()
  endif()
  set(kept "")
  foreach(directory IN LISTS directories)
    # Generator expressions ("$<...") are not paths yet and stay.
    string(FIND "${directory}" "${PROJECT_SOURCE_DIR}/" in_source)
    if(directory MATCHES "\\$<")
      list(APPEND kept "${directory}")
    elseif(NOT EXISTS "${directory}")
      continue()
    elseif(in_source EQUAL 0)
      list(APPEND kept "$<BUILD_INTERFACE:${directory}>")
    else()
      list(APPEND kept "${directory}")
    endif()
  endforeach()
  set_target_properties("${target}" PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
endfunction()

function(_vlaforget_tidy_all_includes)
  get_property(imported DIRECTORY PROPERTY IMPORTED_TARGETS)
  get_property(own DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS imported own)
    _vlaforget_tidy_includes("${target}")
  endforeach()
endfunction()

# Deferred to the end of the project's CMakeLists.txt, when every find_package and every target is there.
cmake_language(DEFER CALL _vlaforget_tidy_all_includes)
