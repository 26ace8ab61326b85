# coffer_library(NAME [LIBS ...]): a static library of the directory's *.c files, without main.c and
# *_test.c, plus one cmocka test program and ctest entry per *_test.c beside them.
function(coffer_library name)
  cmake_parse_arguments(A "" "" "LIBS;TEST_LIBS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS *.c)
  list(FILTER sources EXCLUDE REGEX "(_test|/main|_main)\\.c$")
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC coffer_flags ${A_LIBS})

  file(GLOB tests CONFIGURE_DEPENDS *_test.c)
  foreach(test ${tests})
    get_filename_component(base ${test} NAME_WE)
    set(target ${name}_${base})
    add_executable(${target} ${test})
    set_target_properties(${target} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
    target_compile_options(${target} PRIVATE -UNDEBUG)
    target_link_libraries(${target} PRIVATE ${name} ${A_TEST_LIBS} PkgConfig::CMOCKA)
    add_test(NAME ${name}.${base} COMMAND ${target} WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
    set_tests_properties(${name}.${base} PROPERTIES TIMEOUT 120 SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# coffer_program(NAME SOURCE LIBS...): a program that is installed.
function(coffer_program name source)
  if(NOT EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/${source})
    message(STATUS "${name} has no ${source}")
    return()
  endif()
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE ${ARGN})
  install(TARGETS ${name} RUNTIME DESTINATION bin)
endfunction()

# coffer_fuzz(NAME SOURCE LIBS...): with COFFER_FUZZ a libFuzzer program; otherwise a program that
# replays its corpus (tests/fuzz/corpus/NAME) as a test.
function(coffer_fuzz name source)
  add_executable(fuzz_${name} ${source})
  target_link_libraries(fuzz_${name} PRIVATE ${ARGN})
  set_target_properties(fuzz_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz)
  if(COFFER_FUZZ)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(fuzz_${name} PRIVATE ${CMAKE_SOURCE_DIR}/tests/fuzz/replay_main.c)
    add_test(NAME fuzz.${name}
        COMMAND fuzz_${name} ${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${name})
  endif()
endfunction()
