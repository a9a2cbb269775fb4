@observability
Feature: What runs for long stays as it is

  @O02
  Scenario: A long generation takes no more memory at its end than soon after its start
    Given a running rbee
    And a worker with the model "{steady}"
    When tokens are generated for 30 seconds
    Then queen and worker have not grown meanwhile

  @O03
  Scenario: An hour of an idle rbee leaves memory, files and descriptors as they were
    Given a running rbee whose clocks run up to a hundred times faster
    And a worker with the model "demo"
    When an hour of its intervals has passed
    Then no daemon has grown in memory or descriptors
    And no file of its home has grown
