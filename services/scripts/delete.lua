-- Forget a job, wherever it stands.
-- ARGV: id
go_on_without_memory()
local owner = get(ARGV[1], 'owner')
if not owner then return 0 end
withdraw(ARGV[1])
if get(ARGV[1], 'webhook') then redis.call('ZREM', in_hand(ARGV[1]), ARGV[1]) end
redis.call('ZREM', DEADLINES, ARGV[1])
redis.call('ZREM', OUTBOX, ARGV[1])
redis.call('ZREM', ENDED, ARGV[1])
redis.call('ZREM', ACTIVE .. owner, ARGV[1])
redis.call('ZREM', ALL .. owner, ARGV[1])
forget(owner, ARGV[1])
for _, part in ipairs(PARTS) do redis.call('DEL', JOB .. ARGV[1] .. part) end
return 1
