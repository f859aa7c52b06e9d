set(Slicer_SCRIPTED_MODULES lib/Slicer-5.12/qt-scripted-modules)

# Like Slicer's: each file is copied to its own relative path below the modules' folder of the build tree, and that folder is installed.
# A path that leads upwards therefore lands outside of what is installed, and so does an absolute one.
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(MODULE "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(MODULE_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown arguments: ${MODULE_UNPARSED_ARGUMENTS}")
  endif()
  foreach(file ${MODULE_SCRIPTS} ${MODULE_RESOURCES})
    if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
      message(FATAL_ERROR "no file ${file}")
    endif()
    configure_file("${file}" "${CMAKE_BINARY_DIR}/${Slicer_SCRIPTED_MODULES}/${file}" COPYONLY)
  endforeach()
  install(DIRECTORY "${CMAKE_BINARY_DIR}/${Slicer_SCRIPTED_MODULES}/" DESTINATION ${Slicer_SCRIPTED_MODULES})
endfunction()

function(slicer_add_python_unittest)
endfunction()
