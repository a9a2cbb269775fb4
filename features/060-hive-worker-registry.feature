@workers @registry
Feature: The hive's registry says what each of its workers is and does

  @T31
  Scenario: A worker stands in the registry with everything that is needed to use it, once it has called back
    Given a hive that runs alone and looks at its workers once a minute
    When the hive is asked for a worker with "{large}" without mmap and 3 slots
    Then the registry shows that worker in the state "loading"
    And the worker calls back
    And the registry shows that worker with id, url, model, backend and device
    And the registry shows that worker in the state "idle"
    And the registry shows 3 slots in all and 3 free
    And the address in the registry is where that worker answers to its own id
