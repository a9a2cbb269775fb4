@concurrency
Feature: Many things happen at once, and each is told as it was

  @K01 @K03
  Scenario: Eight workers of one model are asked for at the same moment
    Given a hive that runs alone
    When 8 workers with "{f16 demo}" are asked for at the same moment
    Then each has an id, an address, a key and a process of its own
    And the registry holds those 8 and no other, and all of them become idle
    And the catalog holds "{f16 demo}" once

  @K02
  Scenario: The end of a task and its cancellation race, and one of them wins
    Given a running rbee
    And a worker with the model "demo"
    When 40 tasks of 60 tokens are each cancelled at about the moment at which they end
    Then each has one end, and its row, its stream and its error tell the same one
    And the worker's 4 slots are all free

  @K04
  Scenario: A hundred races for the last slot
    Given a running rbee
    And a worker with the model "{steady}" and 1 slot
    When two requests race for the worker's one slot 100 times
    Then each time one of them got it and the other one was refused with "ALL_SLOTS_BUSY"
    And the worker's 1 slots are all free

  @K06
  Scenario: Workers are ended while others register
    Given a hive that runs alone
    When 4 workers with "demo" are asked for at the same moment
    And 2 of them are shut down, 2 of them killed and 4 new ones asked for, all at the same moment
    Then every one of these calls is answered within 20 seconds
    And the registry, the run files and the processes tell of the same workers, of which the 4 new ones are

  @K07
  Scenario: What is published of a worker is never half of one state and half of another
    Given a running rbee with the settings
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 0.02 |
    And a worker with the model "demo" and 2 slots
    And the hive's telemetry is followed
    When 60 short tasks for "demo" come from 3 clients
    Then each published row is idle with all its slots free, or busy with fewer
    And both were published

  @K08
  Scenario: Ten clients share three workers
    Given a running rbee
    And a worker with the model "{steady}" and 4 slots
    And another worker with the model "{steady}" and 4 slots
    And another worker with the model "{steady}" and 4 slots
    When 10 clients ask "{steady}" for 150 tokens at the same moment, each its own prompt
    Then all 10 are answered with 150 tokens
    And each of the 3 workers answered 3 or 4 of them
    And no worker has a slot taken

  @K09
  Scenario: A thousand requests in a minute
    Given a running rbee
    And a worker with the model "demo" and 8 slots
    When 1000 tasks of 8 tokens come over 4 connections within 60 seconds
    Then every one of them ended well, with its 8 tokens
    And the queue is empty and the worker's 8 slots are all free
    And what the queen added is under 50 ms for 99 of 100 of them, where others leave it the cores
