from flexinfer.proxy.retries import RetryBudget


def test_three_retries_are_always_free_and_come_back_after_the_span():
    budget = RetryBudget(span_s=10.0)
    assert [budget.take(1, 0.0) for _ in range(4)] == [True, True, True, False]
    assert budget.take(1, 9.9) is False
    assert budget.take(1, 10.0) is True


def test_f39_of_many_requests_a_fifth_may_be_sent_again():
    budget = RetryBudget(share=0.2, span_s=10.0)
    assert sum(budget.take(1000, 0.0) for _ in range(1000)) == 200


def test_requests_of_long_ago_do_not_count():
    budget = RetryBudget(span_s=10.0)
    for second in range(60):
        budget.mark(min(second, 20) * 50, float(second))
    # 1000 requests in all, the last one 40 s ago.
    assert sum(budget.take(1000, 60.0) for _ in range(10)) == 3
    assert sum(budget.take(1100, 60.0) for _ in range(100)) == 17


def test_attempts_stay_within_six_fifths_of_the_requests_of_a_storm():
    budget = RetryBudget()
    attempts = requests = 0
    for tick in range(6000):
        now = tick / 100
        requests += 1
        attempts += 1 + budget.take(requests, now)
        if tick % 100 == 0:
            budget.mark(requests, now)
    assert attempts <= 1.2 * requests + 3
