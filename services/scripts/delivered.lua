-- Note an attempt to deliver, and when the next one is due.
-- ARGV: id, attempt as JSON, ms until the next one or '' for none, ttl s
go_on_without_memory()
local deliveries = JOB .. ARGV[1] .. ':deliveries'
if ARGV[3] == '' then
  redis.call('ZREM', OUTBOX, ARGV[1])
else
  -- unless another courier has delivered it since
  redis.call('ZADD', OUTBOX, 'XX', now() + ARGV[3], ARGV[1])
end
if redis.call('EXISTS', JOB .. ARGV[1]) == 1 then
  if get(ARGV[1], 'webhook') then redis.call('ZREM', in_hand(ARGV[1]), ARGV[1]) end
  redis.call('RPUSH', deliveries, ARGV[2])
  redis.call('EXPIRE', deliveries, tonumber(ARGV[4]))
end
return 1
