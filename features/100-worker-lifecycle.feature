@workers @lifecycle
Feature: A worker comes to life: spawned, loading in public, ready

  Background:
    Given a hive that runs alone and looks at its workers once a minute

  @T27
  Scenario: A spawn makes a real process whose HTTP answers before its model is loaded
    When the hive is asked for a worker with "{large}" without mmap and 2 slots
    Then a process of that pid runs the worker program
    And the process was started with that model, backend, device and address
    And the address is taken by that process and by no other
    And HTTP answers there while the model is still being loaded
    And the worker's state is "loading"
    And the worker accepts its own key and refuses the hive's key

  @T28
  Scenario: A worker that has loaded its model calls back to its hive
    When the hive is asked for a worker with "{large}" without mmap and 2 slots
    Then the worker tells in its log that it called back and that the hive acknowledged
    And the hive tells in its log that this worker called back, with id, url, model, backend, device and pid
    And the registry changed from "loading" to "idle" by that
    And the hive acknowledges the same callback again
    And the hive refuses that callback with the key of another

  @T32
  Scenario: A worker that is asked while it loads says that it is not ready, and where to follow
    When the hive is asked for a worker with "{large}" without mmap and 2 slots
    And the worker is asked at once whether it is ready
    Then it answers not ready, in the state "loading", with an address for the progress
    And an event stream is found at that address

  @T33
  Scenario: The progress of a load is llama.cpp's own, rises to 100 percent, and ends in ready
    When the hive is asked for a worker with "{large}" without mmap and 2 slots
    And the loading progress is followed from the beginning
    Then it has at least 5 different figures that only rise, the last one 100 percent
    And some of them came while the worker was not ready
    And then comes one event "ready" and one event "done", and the stream ends
    And somebody who follows only now gets the same end

  @T34
  Scenario: A worker that has loaded its model says so
    When the hive is asked for a worker with "{large}" without mmap and 2 slots
    And the worker has called back
    And the worker is asked whether it is ready
    Then it answers exactly ready, idle, with the model loaded
    And it generates 5 tokens
