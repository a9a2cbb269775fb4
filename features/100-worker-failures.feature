@workers @lifecycle @failures
Feature: A worker that cannot start says why, and leaves nothing behind

  @T35
  Scenario: A load that takes longer than its limit is ended, with the progress that it had made
    Given a hive that runs alone with the settings
      | RBEE_POLICY_LOAD_BASE_S          | 3   |
      | RBEE_POLICY_LOAD_PER_GIB_S       | 0   |
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 0.2 |
      | RBEE_POLICY_TERM_S               | 0.5 |
    And a worker in the middle of loading "{large}" without mmap
    When that process is frozen
    Then the worker ends with the reason "loading_timeout" and the code "LOADING_TIMEOUT", not before 3 seconds
    And its error tells how much was loaded, and the limit of 3 seconds
    And its process was ended by SIGKILL
    And the hive lists no worker, and starts none by itself

  @W01
  Scenario: Without a worker program the person is told what to run
    Given a running rbee with the settings
      | RBEE_WORKER_PROGRAM | /nowhere/llm-worker-rbee |
    When a person runs "rbee infer --model demo --prompt 'Once upon a time' --max-tokens 8"
    Then the command exits with 1
    And stderr names "WORKER_RUNTIME_MISSING", "/nowhere/llm-worker-rbee" and "hint: rbee doctor"
    When a person runs "rbee doctor"
    Then the command exits with 1
    And the report names "/nowhere/llm-worker-rbee"

  @W02
  Scenario: A port that somebody has is passed over, and two workers at once never get the same
    Given a stranger that listens on a port, and a hive that prefers that port for its workers
    When three workers are asked for at the same moment
    Then each has an address of its own, above the stranger's port, and answers there with its own id
    And the stranger still has its port

  @W03
  Scenario: A crash while starting is seen at once, with the last lines of the log
    Given a hive that runs alone with the settings
      | RBEE_POLICY_TELEMETRY_INTERVAL_S | 60 |
    And a worker in the middle of loading "{large}" without mmap
    When that process is hit by SIGSEGV
    Then within 1 second the hive lists no worker
    And the worker ends with the reason "start_failed" and the code "WORKER_START_FAILED"
    And its error names SIGSEGV and holds the last lines of its log, at most 40
    And the hive lists no worker, and starts none by itself

  @R02
  Scenario: Memory that is taken away while a model loads ends the worker, and only the worker
    Given a hive that runs alone
    And the memory that the hive has to give is noted
    And a worker in the middle of loading "{large}" without mmap
    When that process gets no more memory from the system
    Then the worker ends with the reason "start_failed" and the code "WORKER_OOM"
    And the hive lists no worker, and starts none by itself
    And the hive has that memory to give again

  @W04
  Scenario: A worker whose hive was killed serves on for its grace, finishes what runs, and ends by itself
    Given a hive that runs alone with the settings
      | RBEE_POLICY_ORPHAN_GRACE_S | 3 |
    And a worker of it with the model "{steady}"
    And a request of 1000 tokens that the worker answers
    When the hive is killed
    Then within 5 seconds the worker tells in its log that the hive is gone
    And the worker takes another request
    And then the worker drains, and takes no more
    But the running request is answered to its last token
    And the worker ends by itself, in order
